"""Measure the time to create a page of the slot explorer, and the size of the page.

    python -m studies.timing.explorer                  # glnet_4g, one 224 x 224 image, all blocks and the first ten
    python -m studies.timing.explorer --models glnet_stl glnet_9g --size 384

The weights are random. The time includes all forward passes but not the creation of the model.
"""

import argparse
import statistics
import time

import timm
import torch
from PIL import Image

import glmix
from glmix.data.scenes import SceneConfig, draw_scene
from glmix.slots.explorer import explore


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=["glnet_4g"])
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    print(f"glmix {glmix.__version__}, torch {torch.__version__}, {torch.get_num_threads()} threads\n")
    print("| model | image size | blocks | time in s | file size in MB |\n|---|---|---|---|---|")
    image = Image.fromarray(draw_scene(SceneConfig(size=2 * args.size), "test", 0).image)
    for name in args.models:
        torch.manual_seed(0)
        model = timm.create_model(name).eval()
        for blocks in (None, range(10)):
            seconds, size = [], 0
            for _ in range(args.rounds):
                start = time.perf_counter()
                size = len(explore(image, [(name, model)], blocks=blocks, size=(args.size, args.size)).encode())
                seconds.append(time.perf_counter() - start)
            shown = "all" if blocks is None else "the first 10"
            cells = f"{statistics.median(seconds):.1f} | {size / 1e6:.2f}"
            print(f"| {name} | {args.size} x {args.size} | {shown} | {cells} |", flush=True)


if __name__ == "__main__":
    main()
