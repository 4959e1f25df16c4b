"""Composition of images: cut-outs pasted on photographs, with exact masks."""

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageEnhance

from glmix.data.core.image_files import read_upright
from glmix.data.scenes import LabelledImage, Split
from glmix.errors import InputError
from studies.cutouts.sources import Photographs

__all__ = ["Composer", "CompositionConfig", "sheet"]

TRIES = 20  # attempts to place an object before it is dropped
MIN_VISIBLE = 0.6  # minimum visible fraction of an object after all later objects are pasted
STORED_OBJECT = 320  # longer side of a cut-out in memory
STORED_BACKGROUND = 720  # shorter side of a background in memory
Bytes = NDArray[np.uint8]


@dataclass(frozen=True)
class CompositionConfig:
    """Configuration of the images.

    Args:
        class_names: names of the groups.
        size: side of the image in pixels.
        objects: minimum and maximum number of objects per image. An object without enough space is dropped.
        seed: seed of the images.
    """

    class_names: tuple[str, ...]
    size: int = 96
    objects: tuple[int, int] = (1, 1)
    seed: int = 0

    def __post_init__(self) -> None:
        if self.size < 16:
            raise InputError(f"size must be at least 16 pixels, got {self.size}.")
        if not 0 <= self.objects[0] <= self.objects[1] <= 255:
            raise InputError(f"objects must be two numbers, 0 <= minimum <= maximum <= 255, got {self.objects}.")

    @property
    def single(self) -> bool:
        """Whether every image has exactly one object."""
        return self.objects == (1, 1)

    @property
    def num_classes(self) -> int:
        return len(self.class_names)


class Composer:
    """Images of one split, each a pure function of (configuration, split, index).

    Args:
        config: configuration of the images.
        split: the split.
        photographs: photographs of the split.
    """

    def __init__(self, config: CompositionConfig, split: Split, photographs: Photographs) -> None:
        self.config, self.split = config, split
        self.groups = [config.class_names.index(group) for group, _ in photographs.objects]
        self.objects = [_cut_out(file) for _, file in photographs.objects]
        self.backgrounds = [_background(file) for file in photographs.backgrounds]
        self.by_group = [np.flatnonzero(np.array(self.groups) == group) for group in range(config.num_classes)]
        missing = [name for name, found in zip(config.class_names, self.by_group, strict=True) if not len(found)]
        if missing or not self.backgrounds:
            raise InputError(f"The split {split} has no photograph of {missing[0] if missing else 'a background'}.")

    def with_config(self, config: CompositionConfig) -> "Composer":
        """Return a composer of other images from the same photographs."""
        other = copy.copy(self)
        other.config = config
        return other

    def __call__(self, index: int) -> LabelledImage:
        """Return the image with an index. All groups are equally likely, and so are the objects of a group."""
        config = self.config
        rng = np.random.default_rng((config.seed, get_args(Split).index(self.split), index))
        image = self._crop_background(rng)
        instances = np.zeros((config.size, config.size), np.uint8)
        labels: list[int] = []
        areas: list[int] = []
        smallest, largest = (0.5, 0.9) if config.single else (0.3, 0.55)
        for _ in range(rng.integers(config.objects[0], config.objects[1] + 1)):
            group = int(rng.integers(config.num_classes))
            cut_out = self.objects[rng.choice(self.by_group[group])]
            for _ in range(TRIES):
                pasted = _transformed(cut_out, rng, round(config.size * rng.uniform(smallest, largest)))
                height, width = pasted.shape[:2]
                top = int(rng.integers(config.size - height + 1))
                left = int(rng.integers(config.size - width + 1))
                area = slice(top, top + height), slice(left, left + width)
                trial = instances.copy()
                # an object covers a pixel if it contributes at least half of its colour
                trial[area][pasted[..., 3] >= 128] = len(labels) + 1
                visible = np.bincount(trial.ravel(), minlength=len(labels) + 2)[1:]
                if visible[-1] > 0 and all(visible[:-1] >= MIN_VISIBLE * np.array(areas)):
                    instances = trial
                    alpha = pasted[..., 3:] / 255
                    image[area] = alpha * pasted[..., :3] + (1 - alpha) * image[area]
                    labels.append(group)
                    areas.append(int(visible[-1]))
                    break
        return LabelledImage((image + 0.5).astype(np.uint8), instances, np.array(labels, np.int64))

    def _crop_background(self, rng: np.random.Generator) -> NDArray[np.float64]:
        photograph = self.backgrounds[rng.integers(len(self.backgrounds))]
        side = round(min(photograph.size) * rng.uniform(0.25, 1))
        left, top = (int(rng.integers(length - side + 1)) for length in photograph.size)
        size = (self.config.size, self.config.size)
        crop = photograph.resize(size, Image.Resampling.LANCZOS, (left, top, left + side, top + side))
        pixels = np.asarray(crop)
        return (pixels[:, ::-1] if rng.random() < 0.5 else pixels).astype(np.float64)


def _cut_out(file: Path) -> Image.Image:
    """Return the opaque part of a cut-out with transparency, reduced to `STORED_OBJECT`."""
    with Image.open(file) as opened:
        image = opened.convert("RGBA")
    box = image.getchannel("A").point(lambda value: 255 * (value >= 128)).getbbox()
    if box is None or image.getchannel("A").getextrema()[0] == 255:
        raise InputError(f"{file} is not a cut-out: all its pixels are {'transparent' if box is None else 'opaque'}.")
    image = image.crop(box)
    image.thumbnail((STORED_OBJECT, STORED_OBJECT), Image.Resampling.LANCZOS)
    return image


def _background(file: Path) -> Image.Image:
    image = read_upright(file)
    factor = min(1, STORED_BACKGROUND / min(image.size))
    return image.resize((round(image.width * factor), round(image.height * factor)), Image.Resampling.LANCZOS)


def _transformed(cut_out: Image.Image, rng: np.random.Generator, side: int) -> Bytes:
    """Return a cut-out (H, W, 4) with a longer side of `side` pixels: rotated, flipped, brighter or darker."""
    angle, flip, brightness = rng.uniform(-20, 20), rng.random() < 0.5, rng.uniform(0.8, 1.2)
    image = cut_out.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if flip else cut_out
    image = image.rotate(angle, Image.Resampling.BICUBIC, expand=True)
    box = image.getchannel("A").getbbox()
    image = image.crop(box)
    factor = side / max(image.size)
    image = image.resize(
        (max(1, round(image.width * factor)), max(1, round(image.height * factor))), Image.Resampling.LANCZOS
    )
    return np.asarray(_brightened(image, brightness))


def _brightened(image: Image.Image, factor: float) -> Image.Image:
    colours = ImageEnhance.Brightness(image.convert("RGB")).enhance(factor)
    colours.putalpha(image.getchannel("A"))
    return colours


def sheet(images: Sequence[LabelledImage], columns: int) -> Image.Image:
    """Return a grid of images without labels."""
    size = images[0].image.shape[0]
    rows = -(-len(images) // columns)
    page = Image.new("RGB", (columns * (size + 2), rows * (size + 2)), "white")
    for number, image in enumerate(images):
        page.paste(Image.fromarray(image.image), (number % columns * (size + 2), number // columns * (size + 2)))
    return page
