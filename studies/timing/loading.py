"""Measure images per second per core, from a JPEG to the input of the network, for each decoder.

    python -m studies.timing.loading [--sizes 500x375 4000x3000] [--count 24] [--seconds 4]

The JPEGs are generated images; decoding them takes as long as for photographs of the same size and quality. Rates are
per CPU time of one thread, so that other programs on the machine have little influence.
"""

import argparse
import io
import platform
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torchvision
from PIL import Image, __version__
from torchvision.io import ImageReadMode, decode_jpeg

from glmix.data.classification.transforms import TransformConfig
from glmix.data.core.decoding import decode, reduced_side
from glmix.data.core.sampling import seeded
from glmix.data.scenes import SceneConfig, draw_scene


def jpeg_files(width: int, height: int, count: int) -> list[bytes]:
    """Return generated JPEGs of quality 90 with 4:2:0 chroma subsampling, as common in cameras and ImageNet."""
    side = min(max(width, height), 512)
    files = []
    for index in range(count):
        scene = Image.fromarray(draw_scene(SceneConfig(size=side), "train", index).image)
        buffer = io.BytesIO()
        scene.resize((width, height), Image.Resampling.BICUBIC).save(buffer, "JPEG", quality=90)
        files.append(buffer.getvalue())
    return files


def pil(content: bytes) -> Image.Image:
    return decode(content)


def pil_draft(content: bytes) -> Image.Image:
    return decode(content, reduced_side(224, TransformConfig().scale[0]))


def torchvision_tensor(content: bytes) -> torch.Tensor:
    return decode_jpeg(torch.frombuffer(bytearray(content), dtype=torch.uint8), mode=ImageReadMode.RGB)


def torchvision_image(content: bytes) -> Image.Image:
    return Image.fromarray(torchvision_tensor(content).permute(1, 2, 0).numpy())


def after(decoder: Callable[[bytes], Any], transform: Callable[[Any], Any]) -> Callable[[bytes], Any]:
    """Return a function that decodes and then transforms."""
    return lambda file: transform(decoder(file))


def rates(pipelines: dict[str, Callable[[bytes], Any]], files: list[bytes], seconds: float) -> dict[str, float]:
    """Return files per second of CPU time per pipeline, the best of five rounds in alternation."""
    best = dict.fromkeys(pipelines, 0.0)
    for _ in range(5):
        for name, load in pipelines.items():
            load(files[0])
            done, start = 0, time.process_time()
            while time.process_time() - start < seconds / 5:
                load(files[done % len(files)])
                done += 1
            best[name] = max(best[name], done / (time.process_time() - start))
    return best


def difference(a: torch.Tensor, b: torch.Tensor) -> str:
    """Format the difference between two images, in units of 1/255."""
    gap = (a.float() - b.float()).abs()
    return f"max {gap.max():.2f}, mean {gap.mean():.3f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", nargs="+", default=["500x375", "4000x3000"], help="WIDTHxHEIGHT of the files")
    parser.add_argument("--count", type=int, default=24, help="number of different files")
    parser.add_argument("--seconds", type=float, default=4, help="CPU seconds per measurement")
    args = parser.parse_args()
    torch.set_num_threads(1)
    print(f"{platform.processor() or platform.machine()}, Pillow {__version__}, torchvision {torchvision.__version__}")
    config = TransformConfig()
    recipe, crop_only = config.train(), TransformConfig(auto_augment=None, color_jitter=None, erasing=0).train()
    decoders: dict[str, Callable[[bytes], Any]] = {
        "PIL": pil,
        "PIL, draft": pil_draft,
        "torchvision, to PIL": torchvision_image,
    }
    for size in args.sizes:
        width, height = map(int, size.split("x"))
        files = jpeg_files(width, height, args.count)
        kilobytes = sum(map(len, files)) / len(files) / 1000
        pipelines = {f"{name}|decode": decoder for name, decoder in decoders.items()}
        for step, transform in (("crop", crop_only), ("recipe", recipe)):
            pipelines |= {f"{name}|{step}": after(decoder, transform) for name, decoder in decoders.items()}
        with seeded(0):
            best = rates({**pipelines, "tensor": torchvision_tensor}, files, args.seconds)
        print(f"\n{size} JPEGs of {kilobytes:.0f} kB: images per second per core")
        print(f"  {'':22s}{'decode':>9s}{'+ crop, flip':>14s}{'+ recipe':>10s}")
        for name in decoders:
            print(
                f"  {name:22s}{best[name + '|decode']:9.0f}{best[name + '|crop']:14.0f}{best[name + '|recipe']:10.0f}"
            )
        print(f"  {'torchvision, tensor':22s}{best['tensor']:9.0f}")
        plain = torch.from_numpy(np.array(pil(files[0])))
        other = torchvision_tensor(files[0]).permute(1, 2, 0)
        print(f"  difference of pixels, PIL and torchvision: {difference(plain, other)}")
        crops = []
        for decoder in (pil, pil_draft):
            with seeded(1):
                crops.append(crop_only(decoder(files[0])) * 255 * torch.tensor(config.std).view(3, 1, 1))
        print(f"  difference of a training crop, PIL and PIL with draft: {difference(*crops)}")


if __name__ == "__main__":
    main()
