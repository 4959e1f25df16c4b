"""Images per second of `glmix.inference`, of decoding alone and of the model alone, in turn in one run.

    python -m studies.timing.inference --count 600 --rounds 3
    python -m studies.timing.inference --precisions --count 64 --rounds 5

With --precisions, only the model is measured: unchanged, and optimised in float32 and bfloat16. The rates are per CPU
time, which depends less on other processes.

The images are JPEG files of 1000 x 700 pixels, smoothed noise, in a temporary folder.
"""

import argparse
import functools
import itertools
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import timm
import torch
from PIL import Image, ImageFilter

from glmix import inference
from glmix.bench.machine import describe_machine
from glmix.inference.loading import default_workers, load_batches
from glmix.memory import keep_freed_memory


def write_images(folder: Path, count: int) -> None:
    """Write JPEG files of 1000 x 700 pixels; ten pictures repeat."""
    generator = np.random.default_rng(0)
    pictures = [
        Image.fromarray(generator.integers(0, 256, (700, 1000, 3), dtype=np.uint8)).filter(ImageFilter.GaussianBlur(2))
        for _ in range(10)
    ]
    for number in range(count):
        pictures[number % 10].save(folder / f"{number:06d}.jpg", quality=85)


def seconds(run: Callable[[], object], clock: Callable[[], float] = time.perf_counter) -> float:
    """Return the time of a call."""
    started = clock()
    run()
    return clock() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="glnet_nano")
    parser.add_argument("--count", type=int, default=600, help="images (%(default)s)")
    parser.add_argument("--rounds", type=int, default=3, help="rounds, in which the cases take turns (%(default)s)")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--precision", choices=("float32", "bfloat16"), help="optimise the model (default: as it is)")
    parser.add_argument("--precisions", action="store_true", help="only compare the precisions of the model")
    args = parser.parse_args()
    keep_freed_memory()  # as the command line does
    model = timm.create_model(args.model, num_classes=10).eval()
    with tempfile.TemporaryDirectory() as name:
        write_images(Path(name), args.count)
        source = inference.open_source(name)
        output = inference.Predictions(model, precision=args.precision)
        batch = torch.stack([output.read(Path(source.key(0)))[0]] * args.batch_size)
        workers = default_workers(args.count, args.batch_size)
        everything = [range(args.count)]

        def decode(count: int) -> None:
            for _ in load_batches(source, everything, output.read, batch_size=args.batch_size, num_workers=count):
                pass

        def compute(output: inference.Output = output) -> None:
            with torch.inference_mode():
                for _ in range(-(-args.count // args.batch_size)):
                    output.compute(batch)

        def pipeline(count: int) -> None:
            rows = inference.run(output, source, batch_size=args.batch_size, num_workers=count)
            assert sum(len(found) for found in rows) == args.count

        cases: dict[str, Callable[[], object]] = {
            "decoding alone, one process": lambda: decode(0),
            f"decoding alone, {workers} workers": lambda: decode(workers),
            "model alone": compute,
            "pipeline without workers": lambda: pipeline(0),
            **{f"pipeline, {count} workers": functools.partial(pipeline, count) for count in range(1, workers + 1)},
        }
        if args.precisions:
            outputs = {
                "as it is": inference.Predictions(model),
                "optimised, float32": inference.Predictions(model, precision="float32"),
                "optimised, bfloat16": inference.Predictions(model, precision="bfloat16"),
            }
            cases = {f"model alone, {name}": functools.partial(compute, one) for name, one in outputs.items()}
        times: dict[str, list[float]] = {case: [] for case in cases}
        for _, (case, run) in itertools.product(range(args.rounds), cases.items()):
            times[case].append(seconds(run, time.process_time if args.precisions else time.perf_counter))
    machine = describe_machine("cpu", torch.get_num_threads())
    print(f"{args.model}, {args.count} JPEGs of 1000 x 700, batches of {args.batch_size}; {machine['cpu']}")
    print(
        f"{os.cpu_count()} cores, {machine['threads']} threads ({machine['instructions']}); median of {args.rounds}\n"
    )
    unit = "images per CPU second" if args.precisions else "images/s"
    print(f"| | {unit} | relative |\n|---|---:|---:|")
    first = next(iter(times.values()))
    for case, found in times.items():
        relative = statistics.median(one / other for one, other in zip(first, found, strict=True))
        print(f"| {case} | {args.count / statistics.median(found):.1f} | {relative:.2f} |")


if __name__ == "__main__":
    main()
