"""How good a segmentation is, from the confusion matrix of all its pixels (K, K): truth in rows, prediction beside."""

from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["SegmentationScores", "scores_of"]


@dataclass(frozen=True)
class SegmentationScores:
    """Values from 0 to 1.

    Args:
        mean_iou: the mean of `iou` over the classes that occur.
        pixel_accuracy: the share of pixels that are right.
        iou: (K,), of each class: pixels in prediction and truth by those in either; no number where there are none.
    """

    mean_iou: Tensor
    pixel_accuracy: Tensor
    iou: Tensor


def scores_of(confusion: Tensor) -> SegmentationScores:
    counts = confusion.double()
    hits = counts.diagonal()
    either = counts.sum(0) + counts.sum(1) - hits
    iou = torch.where(either > 0, hits / either.clamp_min(1), torch.nan)
    mean = iou.nanmean() if bool((either > 0).any()) else iou.new_zeros(())
    return SegmentationScores(mean.float(), (hits.sum() / counts.sum().clamp_min(1)).float(), iou.float())
