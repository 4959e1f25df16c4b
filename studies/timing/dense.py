"""Memory and time of the models as backbones of dense prediction: four maps of one large image, without gradients.

    python -m studies.timing.dense                                            # every variant at 1280 x 800
    python -m studies.timing.dense --models glnet_4g resnet50 --dtype bf16    # other models of timm's may stand beside
    python -m studies.timing.dense --size 1024 1024 --rounds 5

Each run of a model has a process of its own, in which a peak of memory cannot hide behind another's, and models take
turns, so that a machine whose speed drifts favours none. Time is the median of all runs, each behind one that warms up.
Peak memory is what that first run adds to the resident size: neither weights nor the image; the median too.
"""

import argparse
import json
import platform
import statistics
import subprocess
import sys
import time
from pathlib import Path

import timm
import torch
from torch import nn

import glmix
from glmix.bench import count_macs
from glmix.models import MODEL_NAMES

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
VARIANTS = [name for name in MODEL_NAMES if not name.endswith("_tklb")]  # which are the same backbones


def make(name: str) -> nn.Module:
    if timm.create_model(name, device="meta").__class__.__module__.startswith("glmix."):
        return glmix.Pyramid(timm.create_model(name)).eval()
    return timm.create_model(name, features_only=True, out_indices=(-4, -3, -2, -1)).eval()


def resident(key: str) -> float:
    """MiB of memory that the process holds (VmRSS) or held at most (VmHWM)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(key)) / 1024


def measure(name: str, size: tuple[int, int], dtype: str, runs: int) -> dict[str, object]:
    """In this process, which has measured nothing before."""
    model = make(name).to(DTYPES[dtype], memory_format=torch.channels_last)
    image = torch.randn(1, 3, *size, dtype=DTYPES[dtype])

    def seconds() -> float:
        start = time.perf_counter()
        with torch.inference_mode():
            model(image)
        return time.perf_counter() - start

    Path("/proc/self/clear_refs").write_text("5")  # Linux: forget the peak so far
    before = resident("VmRSS")
    seconds()
    return {"peak": resident("VmHWM") - before, "seconds": [seconds() for _ in range(runs)]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=VARIANTS, metavar="MODEL")
    parser.add_argument("--size", nargs=2, type=int, default=[800, 1280], metavar=("HEIGHT", "WIDTH"))
    parser.add_argument("--dtype", default="fp32", choices=DTYPES)
    parser.add_argument("--runs", type=int, default=2, help="timed runs of a process")
    parser.add_argument("--rounds", type=int, default=1, help="processes of each model, in turn with the others")
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.measure:
        return print(json.dumps(measure(args.measure, tuple(args.size), args.dtype, args.runs)))

    found: dict[str, list[dict[str, object]]] = {name: [] for name in args.models}
    for _ in range(args.rounds):
        for name in args.models:
            command = [sys.executable, __file__, *sys.argv[1:], "--measure", name]
            output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
            found[name].append(json.loads(output.splitlines()[-1]))

    height, width = args.size
    print(
        f"{processor()}, {torch.get_num_threads()} threads, {args.dtype}, glmix {glmix.__version__}, "
        f"torch {torch.__version__}, timm {timm.__version__}\n\n"
        f"| {width} x {height} pixels | parameters | MACs | seconds | seconds a megapixel | peak memory |\n"
        "|---|---|---|---|---|---|"
    )
    for name, rounds in found.items():
        model = make(name)
        parameters = sum(p.numel() for p in model.parameters()) / 1e6
        macs = count_macs(model, (3, height, width)) / 1e9
        elapsed = statistics.median(t for one in rounds for t in one["seconds"])
        peak = statistics.median(one["peak"] for one in rounds)
        print(
            f"| {name} | {parameters:.1f} M | {macs:.0f} G | {elapsed:.2f} | {elapsed / (height * width / 1e6):.2f} | "
            f"{peak:.0f} MiB |"
        )


def processor() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    return next((line.split(": ")[1] for line in lines if line.startswith("model name")), platform.machine())


if __name__ == "__main__":
    main()
