"""The panels of a figure on slots, as arrays: what is seen of one image in one block.

A panel is (H, W, 3) from 0 to 1 on the canvas, the image at a size that prints well; maps of slots are (S, h, w).
"""

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from ..maps import BlockMaps
from ..measures import effective_slots_per_image, effective_slots_per_pixel, resize_assignment, strongest_slots
from .medoids import representative_slots

__all__ = ["COLOURS", "Block", "canvas_of", "hex_to_rgb"]

Array = NDArray[np.float32]

# Of representative slots, told apart by most eyes; letters beside them tell them apart for all.
COLOURS = ("#d1495b", "#e5a11a", "#3c9d5f", "#2ba3bf", "#7d55b5", "#e077a8", "#8a6d3b", "#64748b")
SMALLEST, LARGEST = 256, 512  # the longer side of a canvas
MANY = 64  # slots; where there are more, canvases are smaller, so that no figure needs much memory


def hex_to_rgb(colour: str) -> Array:
    return np.array([int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)], np.float32)


def canvas_of(image: Image.Image, num_slots: int = MANY) -> Array:
    """The image as it is printed: small ones with their pixels repeated, large ones reduced."""
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
    """One image of a batch in one block, with everything that is drawn of it.

    Args:
        maps: of the block.
        canvas: the image as it is printed.
        count: how many slots represent the others.
        at: the image's place in the batch.
    """

    maps: BlockMaps
    canvas: Array
    count: int
    at: int = 0

    @cached_property
    def assignment(self) -> Tensor:
        """(1, S, N)"""
        return self.maps.assignment[self.at : self.at + 1].detach().float().cpu()

    @cached_property
    def slots(self) -> Array:
        """All maps at the block's own resolution (S, h, w)."""
        found: Array = self.assignment[0].unflatten(1, self.maps.grid).numpy()
        return found

    @property
    def num_slots(self) -> int:
        return self.assignment.shape[1]

    @cached_property
    def representatives(self) -> list[int]:
        return representative_slots(self.assignment[0], self.count)

    @cached_property
    def largest(self) -> float:
        """The end of a colour scale for all slots: nineteen of twenty pixels give no slot more than this share.

        It is never less than two even shares, so that maps which tell nothing look like nothing.
        """
        most = np.quantile(self.slots.max(0), 0.95)
        return max(float(most), min(2 / self.num_slots, 1.0))

    @property
    def strongest(self) -> float:
        """The largest share of all, which may lie beyond the scale."""
        return float(self.slots.max())

    @cached_property
    def _fine(self) -> Tensor:
        """The assignment on the canvas (S, H, W)."""
        height, width = self.canvas.shape[:2]
        return resize_assignment(self.assignment, self.maps.grid, (height, width))[0].unflatten(1, (height, width))

    @property
    def effective_per_pixel(self) -> float:
        """The mean over pixels."""
        return float(effective_slots_per_pixel(self.assignment).mean())

    @property
    def effective_per_image(self) -> float:
        return float(effective_slots_per_image(self.assignment))

    @cached_property
    def effective(self) -> Array:
        """Among how many slots each of the block's pixels is shared out (h, w)."""
        found: Array = effective_slots_per_pixel(self.assignment)[0].unflatten(0, self.maps.grid).numpy()
        return found

    @cached_property
    def labels(self) -> NDArray[np.int64]:
        """The strongest slot of each pixel of the canvas (H, W)."""
        found: NDArray[np.int64] = strongest_slots(self._fine[None])[0].numpy()
        return found

    def spotlight(self, slot: int, low: float, high: float) -> Array:
        """The image where the slot is strong, and a ghost of it elsewhere; `low` and `high` end the slot's scale."""
        weight = (self._fine[slot] - low).div(max(high - low, 1e-12)).clamp(0, 1).unsqueeze(2).numpy()
        return _blend(weight, self.canvas, _ghost(self.canvas))

    def segments(self) -> Array:
        """Each pixel in the mean colour of its strongest slot, thin borders between; representatives are tinted."""
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
    return below + weight * (above - below)


def _ghost(canvas: Array) -> Array:
    grey = canvas.mean(2, keepdims=True, dtype=np.float32) * np.float32(0.12) + np.float32(0.86)
    return np.repeat(grey, 3, 2)
