"""Detection in large images by overlapping tiles: which detections to keep, and masks in the whole image."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torchvision.ops import batched_nms

from ...data.core.windows import ImageWindows
from ...data.detection.rle import encode_part
from ...errors import InputError
from .detections import Detections

__all__ = ["Tile", "Tiles", "merge_detections", "rles_in_image"]


@dataclass(frozen=True)
class Tile:
    """A tile of an image.

    Args:
        top, left, bottom, right: its borders in pixels of the image.
        exclusive: borders of the part that is in no other tile, in the same order.
    """

    top: int
    left: int
    bottom: int
    right: int
    exclusive: tuple[int, int, int, int]

    def pixels(self, image: Tensor | ImageWindows) -> Tensor:
        """Return the pixels (3, h, w) of the tile in an image."""
        if isinstance(image, Tensor):
            return image[:, self.top : self.bottom, self.left : self.right]
        return image.read(self.top, self.left, self.bottom - self.top, self.right - self.left)


@dataclass(frozen=True)
class Tiles:
    """Detection by overlapping tiles.

    Args:
        side: side of the tiles in pixels.
        overlap: number of pixels that neighbouring tiles share, at least the size of the largest objects.
    """

    side: int
    overlap: int

    def __post_init__(self) -> None:
        if not 0 <= self.overlap <= self.side // 2:
            raise InputError(
                f"The overlap of tiles must be from 0 to half of their side of {self.side}, got {self.overlap}."
            )

    def of(self, height: int, width: int) -> Iterator[Tile]:
        """Yield the tiles of an image from top to bottom."""
        for (top, bottom, above, below), (left, right, before, after) in product(
            self._ranges(height), self._ranges(width)
        ):
            yield Tile(top, left, bottom, right, (above, before, below, after))

    def _ranges(self, length: int) -> list[tuple[int, int, int, int]]:
        """Return start and end of each tile along one side, and of its part that is in no other tile."""
        last = max(length - self.side, 0)
        starts = [*range(0, last, self.side - self.overlap), last]
        ends = [min(start + self.side, length) for start in starts]
        return [
            (start, end, before, after)
            for start, end, before, after in zip(starts, ends, [0, *ends], [*starts[1:], length], strict=False)
        ]

    def kept_detections(self, boxes: NDArray[np.float32], tile: Tile, size: tuple[int, int]) -> NDArray[np.bool_]:
        """Return a mask (n,) of the detections to keep: all but those that the tile cuts and a neighbour contains.

        Args:
            boxes: (n, 4), x1 y1 x2 y2 in pixels of the image.
            tile: the tile.
            size: (H, W) of the image.
        """
        margin = max(2, self.overlap // 16)  # a detector localises the edge of a cut object inexactly
        x1, y1, x2, y2 = boxes.T
        above, before, below, after = tile.exclusive
        # per border: whether it is inside the image, the boxes that it cuts, and those that the neighbour does not cut
        borders = (
            (tile.top > 0, y1 < tile.top + margin, y2 <= above - margin),
            (tile.left > 0, x1 < tile.left + margin, x2 <= before - margin),
            (tile.bottom < size[0], y2 > tile.bottom - margin, y1 >= below + margin),
            (tile.right < size[1], x2 > tile.right - margin, x1 >= after + margin),
        )
        cut = np.zeros(len(boxes), bool)
        seen_elsewhere = ~cut
        for is_inside, cuts, sees in borders:
            if is_inside:
                cut |= cuts
                seen_elsewhere &= sees | ~cuts
        return ~(cut & seen_elsewhere)


def merge_detections(parts: Sequence[Detections], size: tuple[int, int], iou: float) -> Detections:
    """Join the detections in tiles by non-maximum suppression per class.

    Args:
        parts: the detections in each tile, with boxes and RLE in the whole image.
        size: (H, W) of the image.
        iou: highest intersection over union of two detections of a class.
    """
    boxes = np.concatenate([found.boxes for found in parts])
    labels = np.concatenate([found.labels for found in parts])
    scores = np.concatenate([found.scores for found in parts])
    kept = batched_nms(*(torch.from_numpy(array) for array in (boxes, scores, labels)), iou).numpy()
    rles = [rle for found in parts for rle in found.rles or ()]
    chosen = None if parts[0].rles is None else [rles[k] for k in kept]
    return Detections(boxes[kept], labels[kept], scores[kept], None, size, chosen)


def rles_in_image(found: Detections, tile: Tile, size: tuple[int, int]) -> list[str]:
    """Return the counts of the RLE of each mask of a tile in the whole image."""
    return [encode_part(mask, tile.top, tile.left, size)["counts"] for mask in found.whole_masks()]
