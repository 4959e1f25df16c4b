"""Large images in windows and tiles: peak memory of the commands, and agreement with segmentation of the whole image.

    python -m studies.timing.tiles memory segment --checkpoint best.ckpt --sides 5000 10000 20000
    python -m studies.timing.tiles memory detect --checkpoint best.ckpt --sides 5000 10000 20000
    python -m studies.timing.tiles agreement --checkpoint out/scenes/segmentation_fpn/checkpoints/best.ckpt

`memory` writes square TIFF files in tiles, of generated scenes, and runs `glmix segment` and `glmix detect` on them in
new processes with one thread. `agreement` puts 16 scenes into one image, and compares the label map in windows with
that of the whole image and with the ground truth.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import tifffile
import torch
from numpy.typing import NDArray

from glmix.bench.machine import describe_machine
from glmix.data.scenes import SceneConfig, draw_scene
from glmix.tasks.segmentation import Inference, SegmentationPredictor

COMMANDS = {
    "segment": ["--resize", "0", "0", "--window", "512", "--stride", "448"],
    "detect": ["--tile", "1024", "--overlap", "128", "--no-overlays"],
}
SCENES = SceneConfig(size=256)


def write_image(path: Path, side: int) -> None:
    """Write a square TIFF file in tiles of scenes; 16 scenes repeat."""
    scenes = [draw_scene(SCENES, "test", number).image for number in range(16)]
    tiles = (scenes[number % 16] for number in range((-(-side // SCENES.size)) ** 2))
    tifffile.imwrite(path, tiles, shape=(side, side, 3), dtype=np.uint8, tile=(SCENES.size,) * 2, photometric="rgb")


def measure_memory(command: str, checkpoint: str, sides: list[int], options: list[str]) -> None:
    """Print time and peak memory of a command for images of several sizes, each in a process of its own."""
    print("| side of the image | windows or tiles | time | peak memory |\n|---:|---|---:|---:|")
    for side in sides:
        with tempfile.TemporaryDirectory() as name:
            image = Path(name) / "large.tif"
            write_image(image, side)
            words = [command, str(image), "--checkpoint", checkpoint, "-o", f"{name}/out", *COMMANDS[command], *options]
            # a process that does nothing else, because the peak of all children is their largest
            code = (
                "import resource, subprocess, sys; subprocess.run(sys.argv[1:], check=True, stdout=2); "
                "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)"
            )
            started = time.perf_counter()
            result = subprocess.run(
                [sys.executable, "-c", code, sys.executable, "-m", "glmix_cli", *words],
                check=True,
                stdout=subprocess.PIPE,
                text=True,
                env={**os.environ, "OMP_NUM_THREADS": "1"},
            )
            seconds, peak = time.perf_counter() - started, int(result.stdout) / 2**20
        print(f"| {side:,} | {' '.join(COMMANDS[command] + options)} | {seconds:.0f} s | {peak:.2f} GiB |", flush=True)


def mosaics(count: int, config: SceneConfig) -> Iterator[tuple[NDArray[np.uint8], NDArray[np.uint8]]]:
    """Yield images of 4 x 4 scenes and their class maps."""
    for first in range(0, 16 * count, 16):
        scenes = [draw_scene(config, "test", first + k) for k in range(16)]
        images = np.stack([scene.image for scene in scenes])
        masks = np.stack([scene.semantic for scene in scenes])
        side = config.size
        yield (
            images.reshape(4, 4, side, side, 3).swapaxes(1, 2).reshape(4 * side, 4 * side, 3),
            masks.reshape(4, 4, side, side).swapaxes(1, 2).reshape(4 * side, 4 * side),
        )


def measure_agreement(checkpoint: str, count: int) -> None:
    """Print which pixels have the same class as in the whole image, and as in the truth, by window and blending."""
    data = list(mosaics(count, SceneConfig(size=96)))
    whole = [SegmentationPredictor.from_checkpoint(checkpoint)(image).labels for image, _ in data]
    truth = np.stack([mask for _, mask in data])
    print(f"whole image: {(np.stack(whole) == truth).mean():.2%} of pixels correct\n")
    print("| window | overlap | blending | same as whole image | correct |\n|---:|---:|---|---:|---:|")
    for window in (96, 192, 288):
        for overlap in (window // 8, window // 3, window // 2):
            for blend in ("mean", "centre"):
                how = Inference("slide", window, window - overlap, blend=blend)
                predict = SegmentationPredictor.from_checkpoint(checkpoint, inference=how)
                found = np.stack([predict(image).labels for image, _ in data])
                same, correct = (found == np.stack(whole)).mean(), (found == truth).mean()
                print(f"| {window} | {overlap} | {blend} | {same:.2%} | {correct:.2%} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    what = parser.add_subparsers(dest="what", required=True)
    memory = what.add_parser("memory", help="peak memory of a command")
    memory.add_argument("command", choices=COMMANDS)
    memory.add_argument("--sides", type=int, nargs="+", default=[5000, 10000, 20000], metavar="N")
    memory.add_argument("--options", nargs=argparse.REMAINDER, default=[], help="further options of the command")
    agreement = what.add_parser("agreement", help="agreement of windows with the whole image")
    agreement.add_argument("--count", type=int, default=6, help="images (%(default)s)")
    for one in (memory, agreement):
        one.add_argument("--checkpoint", required=True)
    args = parser.parse_args()
    torch.set_num_threads(1)
    print(describe_machine("cpu", 1), "\n")
    if args.what == "memory":
        measure_memory(args.command, args.checkpoint, args.sides, args.options)
    else:
        measure_agreement(args.checkpoint, args.count)


if __name__ == "__main__":
    main()
