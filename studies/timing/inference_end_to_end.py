"""Images per second of the commands `glmix predict` and `glmix embed`, compared with those of their two stages.

    python -m studies.timing.inference_end_to_end --count 5000

The images are JPEG files of 1000 x 700 pixels in a temporary folder. On a CPU, decoding and the model share the cores:
half of them are threads of the model and the others worker processes, so the slower stage bounds the rate. The stages
alone are measured on the first --stage-count images, before and after the commands. `one process` decodes and computes
in turn, image by image, as `glmix predict` did before it had a pipeline.
"""

import argparse
import functools
import os
import statistics
import tempfile
from collections.abc import Callable
from pathlib import Path

import timm
import torch

from glmix import inference
from glmix.bench.machine import describe_machine
from glmix.inference.loading import load_batches
from glmix.memory import keep_freed_memory

from .inference import seconds, write_images


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="glnet_nano")
    parser.add_argument("--count", type=int, default=5000, help="images of the commands (%(default)s)")
    parser.add_argument("--stage-count", type=int, default=256, help="images of a stage alone (%(default)s)")
    parser.add_argument("--batch-size", type=int, default=32)
    args = parser.parse_args()
    keep_freed_memory()  # as the command line does
    cores = len(os.sched_getaffinity(0))
    threads, workers = max(1, cores // 2), max(1, cores - cores // 2)
    torch.set_num_threads(threads)
    model = timm.create_model(args.model, num_classes=10).eval()
    outputs: dict[str, inference.Output] = {
        "predict": inference.Predictions(model),
        "embed": inference.Embedding(model),
    }
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        (root / "images").mkdir()
        write_images(root / "images", args.count)
        source = inference.open_source(root / "images")
        some = range(min(args.stage_count, args.count))
        read = outputs["predict"].read
        batch = torch.stack([read(Path(source.key(0)))[0]] * args.batch_size)

        def decode() -> None:
            for _ in load_batches(source, [some], read, batch_size=args.batch_size, num_workers=workers):
                pass

        def compute(command: str) -> None:
            with torch.inference_mode():
                for _ in range(0, len(some), args.batch_size):
                    outputs[command].compute(batch)

        def in_turn() -> None:
            torch.set_num_threads(cores)
            for _ in inference.run(outputs["predict"], source, batch_size=1, num_workers=0, ranges=[some]):
                pass
            torch.set_num_threads(threads)

        def run(command: str) -> None:
            output = outputs[command]
            folder = inference.ResultFolder(root / command, output.options, len(source), output.columns)
            inference.run_to_folder(output, source, folder, batch_size=args.batch_size, num_workers=workers)

        stages: dict[str, Callable[[], None]] = {
            "decoding alone": decode,
            "model of predict alone": functools.partial(compute, "predict"),
            "model of embed alone": functools.partial(compute, "embed"),
            "one process": in_turn,
        }
        times: dict[str, list[float]] = {stage: [seconds(call)] for stage, call in stages.items()}
        rates = {command: args.count / seconds(functools.partial(run, command)) for command in outputs}
        for stage, call in stages.items():
            times[stage].append(seconds(call))
    rates |= {stage: len(some) / statistics.mean(found) for stage, found in times.items()}
    machine = describe_machine("cpu", threads)
    print(f"{args.model}, {args.count} JPEGs of 1000 x 700, batches of {args.batch_size}; {machine['cpu']}")
    print(f"{cores} cores ({machine['instructions']}): {threads} threads of the model, {workers} workers\n")
    print("| | images/s |\n|---|---:|")
    for case in (*stages, *outputs):
        print(f"| {case} | {rates[case]:.1f} |")
    print()
    for command in outputs:
        bound = min(rates["decoding alone"], rates[f"model of {command} alone"])
        print(f"{command}: {rates[command] / bound:.0%} of the slower stage")
    print(f"predict: {rates['predict'] / rates['one process']:.2f} times one process")
    first, last = (max(found[end] / found[1 - end] for found in times.values()) for end in (0, 1))
    print(f"Times of the stages before and after the commands differed by a factor of at most {max(first, last):.2f}.")


if __name__ == "__main__":
    main()
