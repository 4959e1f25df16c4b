"""Measure the cost of `slot_maps`: a forward pass alone, and one that records the slot maps of all blocks.

    python -m studies.timing.slot_maps                                  # glnet_4g at 224 x 224
    python -m studies.timing.slot_maps --models glnet_stl --batches 1 8 --size 384

Both run in alternation, so that drift of the machine's speed affects both. Prints the medians of the times, and the
median of the ratios of consecutive runs.
"""

import argparse
import statistics
import time

import timm
import torch

import glmix
from glmix.slots import slot_maps


def time_pair(model: torch.nn.Module, x: torch.Tensor) -> tuple[float, float]:
    """Return the seconds of a forward pass and of a forward pass with slot maps."""
    start = time.perf_counter()
    with torch.no_grad():
        model(x)
    between = time.perf_counter()
    slot_maps(model, x)
    return between - start, time.perf_counter() - between


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=["glnet_4g"])
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--rounds", type=int, default=15)
    args = parser.parse_args()
    print(f"glmix {glmix.__version__}, torch {torch.__version__}, {torch.get_num_threads()} threads\n")
    print("| model | batch size | forward pass | with all maps | ratio |\n|---|---|---|---|---|")
    for name in args.models:
        model = timm.create_model(name).eval()
        for batch in args.batches:
            x = torch.randn(batch, 3, args.size, args.size)
            time_pair(model, x)
            times = [time_pair(model, x) for _ in range(args.rounds)]
            alone, kept = (1e3 * statistics.median(column) for column in zip(*times, strict=True))
            ratio = statistics.median(b / a for a, b in times)
            print(f"| {name} | {batch} | {alone:.0f} ms | {kept:.0f} ms | {ratio:.2f} |", flush=True)


if __name__ == "__main__":
    main()
