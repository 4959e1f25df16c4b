"""Segmentation metrics from a confusion matrix of pixels (K, K), with ground truth in rows, predictions in columns."""

from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["SegmentationScores", "scores_of"]


@dataclass(frozen=True)
class SegmentationScores:
    """Segmentation metrics, from 0 to 1.

    Args:
        mean_iou: the mean of `iou` over the classes that occur in the prediction or the ground truth.
        pixel_accuracy: the share of correctly classified pixels.
        iou: intersection over union per class (K,); NaN for classes that do not occur.
    """

    mean_iou: Tensor
    pixel_accuracy: Tensor
    iou: Tensor


def scores_of(confusion: Tensor) -> SegmentationScores:
    """Return the metrics of a confusion matrix (K, K).

    torchmetrics accepts only label maps and counts them again for each metric. The mean IoU and the IoU per class
    are equal to those of its MulticlassJaccardIndex.
    """
    counts = confusion.double()
    intersection = counts.diagonal()
    union = counts.sum(0) + counts.sum(1) - intersection
    iou = torch.where(union > 0, intersection / union.clamp_min(1), torch.nan)
    mean = iou.nanmean() if bool((union > 0).any()) else iou.new_zeros(())
    return SegmentationScores(mean.float(), (intersection.sum() / counts.sum().clamp_min(1)).float(), iou.float())
