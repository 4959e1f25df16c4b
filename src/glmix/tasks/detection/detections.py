"""The detections in one image, with masks as arrays or as run-length encodings (RLE)."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from ...data.detection.rle import encode_mask, mask_area
from .metrics import coco_results

__all__ = ["Detections"]


@dataclass(frozen=True, eq=False)
class Detections:
    """The detections in one image, sorted by descending confidence score.

    Args:
        boxes: bounding boxes (n, 4), x1 y1 x2 y2 in pixels of the image.
        labels: class labels (n,), counted from 1.
        scores: confidence scores (n,), from 0 to 1.
        masks: instance masks (n, h, w), in the size of the detector's input image; None from a detector without masks.
        size: (H, W) of the image; None if it is the size of the masks.
        rles: the counts of the compressed RLE of each mask in the size of the image, if they are known. They can take
            the place of `masks`.
    """

    boxes: NDArray[np.float32]
    labels: NDArray[np.int64]
    scores: NDArray[np.float32]
    masks: NDArray[np.bool_] | None
    size: tuple[int, int] | None = None
    rles: Sequence[str] | None = None

    def __len__(self) -> int:
        return len(self.scores)

    @property
    def areas(self) -> list[float]:
        """The area in pixels of each mask, or of each box from a detector without masks, (n,)."""
        segmentations = self.segmentations()
        if segmentations is not None:
            return [float(mask_area(segmentation)) for segmentation in segmentations]
        return (self.boxes[:, 2:] - self.boxes[:, :2]).prod(1).tolist()

    def whole_masks(self) -> Iterator[NDArray[np.bool_]]:
        """Yield the masks in the size of the image (H, W), one at a time: all of them may not fit in memory."""
        for mask in () if self.masks is None else self.masks:
            if self.size is None or mask.shape == self.size:
                yield mask
            else:
                yield np.asarray(Image.fromarray(mask).resize(self.size[::-1], Image.Resampling.NEAREST))

    def segmentations(self) -> list[dict[str, Any]] | None:
        """Return the compressed RLE of each mask in the size of the image; None from a detector without masks."""
        if self.rles is not None:
            assert self.size is not None
            return [{"size": list(self.size), "counts": counts} for counts in self.rles]
        return None if self.masks is None else [encode_mask(mask) for mask in self.whole_masks()]

    def coco(self, image_id: int, category_ids: Sequence[int] | None = None) -> list[dict[str, Any]]:
        """Return the detections in the COCO results format.

        Args:
            image_id: the id of the image.
            category_ids: the category ids of the labels 1, 2, ...; None uses the labels themselves.
        """
        predictions = {
            "boxes": torch.from_numpy(self.boxes),
            "labels": torch.from_numpy(self.labels),
            "scores": torch.from_numpy(self.scores),
        }
        results = coco_results(image_id, predictions, category_ids)
        for result, segmentation in zip(results, self.segmentations() or (), strict=False):
            result["segmentation"] = segmentation
        return results

    def annotations(self, image_id: int, category_ids: Sequence[int] | None = None) -> list[dict[str, Any]]:
        """Return the detections as annotations of a COCO JSON with scores and without ids; see `coco`."""
        results = zip(self.coco(image_id, category_ids), self.areas, strict=True)
        return [{**result, "area": area, "iscrowd": 0} for result, area in results]

    def above(self, score: float) -> "Detections":
        """Return the detections whose score is at least `score`."""
        return self.select(self.scores >= score)

    def select(self, kept: NDArray[np.bool_]) -> "Detections":
        """Return some of the detections: `kept` (n,) is true for these."""
        masks = None if self.masks is None else self.masks[kept]
        rles = None if self.rles is None else [rle for rle, keep in zip(self.rles, kept, strict=True) if keep]
        return Detections(self.boxes[kept], self.labels[kept], self.scores[kept], masks, self.size, rles)

    @classmethod
    def from_row(cls, row: Mapping[str, Any]) -> "Detections":
        """Return the detections in a stored row of results; see `DetectionPredictor`."""
        boxes = np.array(row["boxes"], np.float32).reshape(-1, 4)
        labels, scores = np.array(row["classes"], np.int64), np.array(row["scores"], np.float32)
        return cls(boxes, labels, scores, None, (row["height"], row["width"]), row.get("masks"))
