"""Transforms and statistics of images with any number of channels.

The transforms of timm need RGB images of Pillow. Images with other channels, or with 16 bits, are tensors instead, with
the crops, flips, normalisation and random erasing of `TransformConfig`, but without its colour augmentation.
"""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from timm.data.random_erasing import RandomErasing
from torch import Tensor
from torchvision.transforms import InterpolationMode, transforms
from torchvision.transforms import functional as F

from ...errors import InputError
from ..core.arrays import decode_array, unit_range
from ..core.decoding import UNREADABLE
from .transforms import TransformConfig

__all__ = ["array_input", "array_transform", "channel_statistics"]

ArrayTransform = Callable[[NDArray[Any]], Tensor]


def array_transform(config: TransformConfig, training: bool) -> ArrayTransform:
    """Return the transform of images (H, W, C) to normalised tensors (C, size, size).

    In training it crops, flips and erases at random, with the global generators of Python and torch. In evaluation it
    takes the centre crop of `array_input`.
    """
    mean, std = config.statistics()
    if not training:
        size = (config.size, config.size)
        return functools.partial(
            array_input, size=size, mean=mean, std=std, crop_pct=config.crop, interpolation=_mode(config)
        )
    return transforms.Compose(
        [
            unit_range,
            transforms.RandomResizedCrop(config.size, config.scale, config.ratio, _mode(config)),
            transforms.RandomHorizontalFlip(config.hflip),
            transforms.RandomVerticalFlip(config.vflip),
            transforms.Normalize(mean, std),
            RandomErasing(config.erasing, mode=config.erasing_mode, device="cpu"),
        ]
    )


def _mode(config: TransformConfig) -> InterpolationMode:
    return InterpolationMode.BILINEAR if config.interpolation == "bilinear" else InterpolationMode.BICUBIC


def array_input(
    array: NDArray[Any],
    size: tuple[int, int],
    mean: Sequence[float],
    std: Sequence[float],
    *,
    crop_pct: float | None = None,
    interpolation: InterpolationMode = InterpolationMode.BICUBIC,
) -> Tensor:
    """Return the input of a network (C, *size) for an image (H, W, C).

    Args:
        array: image.
        size: height and width.
        mean: mean of each channel.
        std: standard deviation of each channel.
        crop_pct: resize the shorter side so that the centre crop of `size` has this fraction of it; None resizes the
            whole image to `size`.
        interpolation: interpolation of the resizing.
    """
    pixels = unit_range(array)
    if crop_pct is None:
        pixels = F.resize(pixels, list(size), interpolation)
    else:
        shorter = math.floor(min(size) / crop_pct)
        pixels = F.center_crop(F.resize(pixels, [shorter], interpolation), list(size))
    return F.normalize(pixels, list(mean), list(std))


def channel_statistics(reader: Any, channels: int, count: int = 1000) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Measure the mean and the standard deviation of each channel over the pixels of images.

    Values of 8 and 16 bits are scaled to 0 to 1. Unreadable images are left out. A constant channel gets the standard
    deviation 1.

    Args:
        reader: reader of timm with random access.
        channels: number of channels C.
        count: number of images, evenly spaced over the data set.

    Returns:
        Mean (C,) and standard deviation (C,), with six significant digits.

    Raises:
        InputError: if none of the images can be read.
    """
    from tqdm import tqdm

    sums = torch.zeros(2, channels, dtype=torch.float64)
    pixels, reason = 0, ""
    places = np.unique(np.linspace(0, len(reader) - 1, min(count, len(reader))).round().astype(np.int64))
    for index in tqdm(places, desc="mean and std", unit="image", disable=None, leave=False):
        try:
            image = unit_range(decode_array(reader[int(index)][0], channels)).double().flatten(1)
        except UNREADABLE as error:
            reason = f"{reader.filename(int(index))}: {error}"
            continue
        sums += torch.stack([image.sum(1), image.square().sum(1)])
        pixels += image.shape[1]
    if not pixels:
        raise InputError(f"None of {len(places)} images can be read to measure mean and std ({reason}).")
    mean = sums[0] / pixels
    std = (sums[1] / pixels - mean.square()).clamp_min(0).sqrt()
    std = torch.where(std > 1e-6, std, 1.0)
    return tuple(float(f"{m:.6g}") for m in mean.tolist()), tuple(float(f"{s:.6g}") for s in std.tolist())
