"""Images per second and peak memory of a forward pass, of every variant in every form, interleaved.

    python benchmarks/forward.py                                    # the whole table
    python benchmarks/forward.py --models glnet_4g --batches 8
    python benchmarks/forward.py --profile glnet_4g                 # where the time goes, operator by operator

All forms of a model take turns, run by run, so that a machine whose speed drifts favours none of them; medians are
printed. Memory is measured in a process of its own for each row, as what a forward pass adds to the resident size.
"""

import argparse
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path

import timm
import torch

import glmix
from glmix.models import MODEL_NAMES

FORMATS = {"NCHW": torch.contiguous_format, "channels-last": torch.channels_last}
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


def make(name: str, form: str, dtype: str) -> torch.nn.Module:
    torch.manual_seed(0)
    return timm.create_model(name, dtype=DTYPES[dtype]).eval().to(memory_format=FORMATS[form])


def images(name: str, batch: int, form: str, dtype: str) -> torch.Tensor:
    channels, height, width = timm.get_pretrained_cfg(name).input_size
    x = torch.randn(batch, channels, height, width, dtype=DTYPES[dtype])
    return x.contiguous(memory_format=FORMATS[form])


def seconds(model: torch.nn.Module, x: torch.Tensor) -> float:
    start = time.perf_counter()
    with torch.inference_mode():
        model(x)
    return time.perf_counter() - start


def peak_memory(name: str, batch: int, form: str, dtype: str) -> float:
    """MiB that a forward pass adds, measured in a fresh process: a peak never goes down again."""
    command = [sys.executable, __file__, "--peak", json.dumps([name, batch, form, dtype])]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def print_peak(name: str, batch: int, form: str, dtype: str) -> None:
    model, x = make(name, form, dtype), images(name, batch, form, dtype)
    Path("/proc/self/clear_refs").write_text("5")  # Linux: forget the peak so far
    before = resident("VmRSS")
    seconds(model, x)
    print(resident("VmHWM") - before)


def resident(key: str) -> float:
    """MiB of memory that the process holds (VmRSS) or held at most (VmHWM)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(key)) / 1024


def profile(name: str, batch: int, form: str) -> None:
    model, x = make(name, form, "fp32"), images(name, batch, form, "fp32")
    seconds(model, x)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profiler:
        seconds(model, x)
    print(profiler.key_averages().table(sort_by="self_cpu_time_total", row_limit=20, max_name_column_width=48))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=list(MODEL_NAMES), choices=MODEL_NAMES, metavar="MODEL")
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 8])
    parser.add_argument("--dtypes", nargs="+", default=list(DTYPES), choices=DTYPES)
    parser.add_argument("--runs", type=int, default=5, help="timed runs of each row, after one that warms up")
    parser.add_argument("--profile", metavar="MODEL", choices=MODEL_NAMES, help="print operator times of one model")
    parser.add_argument("--peak", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.peak:
        return print_peak(*json.loads(args.peak))
    if args.profile:
        return profile(args.profile, args.batches[-1], "channels-last")

    print(
        f"glmix {glmix.__version__}, torch {torch.__version__}, timm {timm.__version__}, "
        f"{torch.get_num_threads()} threads"
    )
    print(f"\n| model | batch | {' | '.join(f'{d} {f}' for d in args.dtypes for f in FORMATS)} | peak memory, fp32 |")
    print(f"|---|---|{'---|' * (len(args.dtypes) * len(FORMATS) + 1)}")
    forms = [(form, dtype) for dtype in args.dtypes for form in FORMATS]
    for name in args.models:
        models = {key: make(name, *key) for key in forms}
        for batch in args.batches:
            inputs = {(form, dtype): images(name, batch, form, dtype) for form, dtype in forms}
            times: dict[tuple[str, str], list[float]] = {key: [] for key in forms}
            for run in range(args.runs + 1):
                for key in forms:
                    elapsed = seconds(models[key], inputs[key])
                    if run > 0:
                        times[key].append(elapsed)
            rates = " | ".join(f"{batch / statistics.median(times[key]):.1f}" for key in forms)
            memory = peak_memory(name, batch, "channels-last", "fp32")
            print(f"| {name} | {batch} | {rates} | {memory:.0f} MiB |", flush=True)


if __name__ == "__main__":
    main()
