"""Measure memory and time of the models as backbones for dense prediction: four feature maps of one large image.

    python -m studies.timing.dense                                            # every variant at 1280 x 800
    python -m studies.timing.dense --models glnet_4g resnet50 --dtype bf16    # any timm model
    python -m studies.timing.dense --size 1024 1024 --rounds 5

Gradients are disabled. Each measurement runs in its own process, so that peak memory is measured per model. The models
run in alternation, so that drift of the machine's speed affects all of them. Time is the median over all runs after a
warm-up run. Peak memory is the median increase of the resident set size in the warm-up run, so it excludes the weights
and the image.
"""

import argparse
import json
import statistics
import subprocess
import sys
import time
from typing import Any

import timm
import torch
from torch import nn

import glmix
from glmix.bench import count_macs
from glmix.bench.machine import describe_machine
from glmix.bench.memory import added_memory
from glmix.models import MODEL_NAMES

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
VARIANTS = [name for name in MODEL_NAMES if not name.endswith("_tklb")]  # the same backbones as without _tklb


def create_backbone(name: str) -> nn.Module:
    """Create a model that returns four feature maps."""
    if timm.create_model(name, device="meta").__class__.__module__.startswith("glmix."):
        return glmix.Pyramid(timm.create_model(name)).eval()
    return timm.create_model(name, features_only=True, out_indices=(-4, -3, -2, -1)).eval()


def measure(name: str, size: tuple[int, int], dtype: str, runs: int) -> dict[str, Any]:
    """Measure a model in this process, which must not have measured another one before."""
    model = create_backbone(name).to(DTYPES[dtype]).to(memory_format=torch.channels_last)
    image = torch.randn(1, 3, *size, dtype=DTYPES[dtype])

    def seconds() -> float:
        start = time.perf_counter()
        with torch.inference_mode():
            model(image)
        return time.perf_counter() - start

    return {"peak": added_memory(seconds), "seconds": [seconds() for _ in range(runs)]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--models", nargs="+", default=VARIANTS, metavar="MODEL", help="timm models (default: all variants)"
    )
    parser.add_argument("--size", nargs=2, type=int, default=[800, 1280], metavar=("HEIGHT", "WIDTH"))
    parser.add_argument("--dtype", default="fp32", choices=DTYPES)
    parser.add_argument("--runs", type=int, default=2, help="timed runs per process")
    parser.add_argument("--rounds", type=int, default=1, help="processes per model, in alternation")
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.measure:
        return print(json.dumps(measure(args.measure, tuple(args.size), args.dtype, args.runs)))

    results: dict[str, list[dict[str, Any]]] = {name: [] for name in args.models}
    for _ in range(args.rounds):
        for name in args.models:
            command = [sys.executable, __file__, *sys.argv[1:], "--measure", name]
            output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
            results[name].append(json.loads(output.splitlines()[-1]))

    height, width = args.size
    machine = describe_machine("cpu", torch.get_num_threads())
    print(
        f"{machine['cpu']}, {machine['threads']} threads, {args.dtype}, glmix {glmix.__version__}, "
        f"torch {torch.__version__}, timm {timm.__version__}\n\n"
        f"| {width} x {height} pixels | parameters | MACs | time in s | seconds per megapixel | peak memory |\n"
        "|---|---|---|---|---|---|"
    )
    for name, rounds in results.items():
        model = create_backbone(name)
        parameters = sum(p.numel() for p in model.parameters()) / 1e6
        macs = count_macs(model, (3, height, width)) / 1e9
        elapsed = statistics.median(t for result in rounds for t in result["seconds"])
        peak = statistics.median(result["peak"] for result in rounds)
        print(
            f"| {name} | {parameters:.1f} M | {macs:.0f} G | {elapsed:.2f} | {elapsed / (height * width / 1e6):.2f} | "
            f"{peak:.0f} MiB |"
        )


if __name__ == "__main__":
    main()
