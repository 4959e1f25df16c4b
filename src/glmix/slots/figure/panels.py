"""Panels of a slot figure, as arrays, for one image and one block.

A panel is (H, W, 3) from 0 to 1 on the canvas, which is the image at print resolution; slot maps are (S, h, w).
"""

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from ..maps import BlockMaps
from ..measures import (
    effective_slots_per_image,
    effective_slots_per_pixel,
    representative_slots,
    resize_assignment,
    strongest_slots,
)

__all__ = ["COLOURS", "Block", "canvas_of", "hex_to_rgb"]

Array = NDArray[np.float32]

# Colours of representative slots. Their letters identify them for readers who cannot distinguish the colours.
COLOURS = ("#d1495b", "#e5a11a", "#3c9d5f", "#2ba3bf", "#7d55b5", "#e077a8", "#8a6d3b", "#64748b")
SMALLEST, LARGEST = 256, 512  # limits of the longer side of a canvas in pixels
MANY = 64  # number of slots above which canvases are smaller, to limit the memory


def hex_to_rgb(colour: str) -> Array:
    """Convert "#rrggbb" to three numbers from 0 to 1."""
    return np.array([int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)], np.float32)


def canvas_of(image: Image.Image, num_slots: int = MANY) -> Array:
    """Return the image at print resolution: small images enlarged with nearest neighbours, large images reduced.

    Args:
        image: an image of any size.
        num_slots: number of slots per block; many slots reduce the resolution, to limit the memory.
    """
    longer = max(image.size)
    largest = max(SMALLEST, round(LARGEST * min(1.0, (MANY / num_slots) ** 0.5)))
    if longer < SMALLEST:
        times = math.ceil(SMALLEST / longer)
        image = image.resize((image.width * times, image.height * times), Image.Resampling.NEAREST)
    elif longer > largest:
        width, height = (max(1, round(side * largest / longer)) for side in image.size)
        image = image.resize((width, height), Image.Resampling.LANCZOS)
    return np.asarray(image.convert("RGB")).astype(np.float32) / np.float32(255)


@dataclass(frozen=True, eq=False)
class Block:
    """Slot maps of one block for one image of a batch, with everything that the figure draws.

    Args:
        maps: maps of the block.
        canvas: the image at print resolution (H, W, 3).
        count: number of representative slots.
    """

    maps: BlockMaps
    canvas: Array
    count: int

    @cached_property
    def assignment(self) -> Tensor:
        """Assignment of the first image, (1, S, N)."""
        return self.maps.assignment[:1].detach().float().cpu()

    @cached_property
    def slots(self) -> Array:
        """Assignment at the block's own resolution, (S, h, w)."""
        found: Array = self.assignment[0].unflatten(1, self.maps.grid).numpy()
        return found

    @property
    def num_slots(self) -> int:
        return self.assignment.shape[1]

    @cached_property
    def representatives(self) -> list[int]:
        """Indices of the representative slots."""
        return representative_slots(self.assignment[0], self.count)

    @cached_property
    def largest(self) -> float:
        """Upper end of the colour scale: the 95 % quantile over pixels of the highest weight of a slot.

        It is at least twice the uniform weight, so that uniform maps do not look structured.
        """
        most = np.quantile(self.slots.max(0), 0.95)
        return max(float(most), min(2 / self.num_slots, 1.0))

    @property
    def strongest(self) -> float:
        """Highest weight of any slot, which may exceed the colour scale."""
        return float(self.slots.max())

    @cached_property
    def _fine(self) -> Tensor:
        """Assignment at the resolution of the canvas, (S, H, W)."""
        height, width = self.canvas.shape[:2]
        return resize_assignment(self.assignment, self.maps.grid, (height, width))[0].unflatten(1, (height, width))

    @property
    def effective_per_pixel(self) -> float:
        """Effective slots per pixel, averaged over pixels."""
        return float(effective_slots_per_pixel(self.assignment).mean())

    @property
    def effective_per_image(self) -> float:
        """Effective slots of the image."""
        return float(effective_slots_per_image(self.assignment))

    @cached_property
    def effective(self) -> Array:
        """Effective slots of each pixel, (h, w)."""
        found: Array = effective_slots_per_pixel(self.assignment)[0].unflatten(0, self.maps.grid).numpy()
        return found

    @cached_property
    def labels(self) -> NDArray[np.int64]:
        """Strongest slot of each pixel of the canvas, (H, W)."""
        found: NDArray[np.int64] = strongest_slots(self._fine[None])[0].numpy()
        return found

    def highlight(self, slot: int, low: float, high: float) -> Array:
        """Return the image (H, W, 3) where the slot has a high weight, and a pale grey version of it elsewhere.

        Args:
            slot: index of the slot.
            low, high: ends of the slot's colour scale.
        """
        weight = (self._fine[slot] - low).div(max(high - low, 1e-12)).clamp(0, 1).unsqueeze(2).numpy()
        return _blend(weight, self.canvas, _faded(self.canvas))

    def segments(self) -> Array:
        """Return the segments of the strongest slots in their mean colours, with thin boundaries.

        Representatives are tinted in their own colours.
        """
        from skimage.segmentation import find_boundaries

        flat = self.labels.ravel()
        counts = np.bincount(flat, minlength=self.num_slots).clip(1)
        channels = [np.bincount(flat, self.canvas[..., c].ravel(), self.num_slots) / counts for c in range(3)]
        means = np.stack(channels, 1).astype(np.float32)  # (S, 3)
        for slot, colour in zip(self.representatives, COLOURS, strict=False):
            means[slot] = 0.25 * means[slot] + 0.75 * hex_to_rgb(colour)
        painted = means[self.labels]
        borders = find_boundaries(self.labels, mode="inner")
        painted[borders] = 0.3 * painted[borders] + 0.7
        return painted


def _blend(weight: Array, above: Array, below: Array) -> Array:
    """Blend two images with a weight per pixel."""
    return below + weight * (above - below)


def _faded(canvas: Array) -> Array:
    """Return a pale grey version of the image."""
    grey = canvas.mean(2, keepdims=True, dtype=np.float32) * np.float32(0.12) + np.float32(0.86)
    return np.repeat(grey, 3, 2)
