"""Mean IoU of seeds at every background threshold against ground truth masks, and the best threshold."""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from ..segmentation.metrics import SegmentationScores, scores_of
from .seeds import SeedMaps

__all__ = ["THRESHOLDS", "Curve", "confusions", "curve_of"]

THRESHOLDS = tuple(round(0.02 * k, 2) for k in range(1, 50))
IGNORE = 255


def confusions(score: Tensor, classes: Tensor, truth: Tensor, num_classes: int) -> Tensor:
    """Return int64 confusion matrices (T, K, K) at each of `THRESHOLDS`, ground truth in rows.

    Class 0 is the background. Each pixel is assigned to the interval of its score once, instead of being compared with
    T thresholds, as T confusion matrices of torchmetrics would do.

    Args:
        score: foreground score (...).
        classes: class indices (...) from 1, which apply where a pixel is foreground.
        truth: ground truth (...), `IGNORE` where unknown.
        num_classes: K, with the background.
    """
    counted = truth != IGNORE
    score, classes, truth = score[counted], classes[counted].long(), truth[counted].long()
    # number of thresholds at which a pixel is foreground
    reached = torch.bucketize(score.contiguous(), torch.tensor(THRESHOLDS).to(score), right=True)
    levels = len(THRESHOLDS) + 1
    places = (reached * num_classes + truth) * num_classes + classes
    counts = torch.bincount(places, minlength=levels * num_classes**2).view(levels, num_classes, num_classes)
    foreground = counts.flip(0).cumsum(0).flip(0)[1:]  # (T, K, K): counts of the foreground pixels at each threshold
    background = counts.sum(0) - foreground
    foreground[:, :, 0] += background.sum(2)
    return foreground


@dataclass(frozen=True, eq=False)
class Curve:
    """Confusion matrices (T, K, K) of seeds at each of `THRESHOLDS`."""

    counts: Tensor

    @property
    def mean_iou(self) -> Tensor:
        """Mean IoU at each threshold, (T,)."""
        return torch.stack([scores_of(confusion).mean_iou for confusion in self.counts])

    @property
    def best(self) -> float:
        """Threshold with the highest mean IoU. Choose it on other images than those that are reported."""
        return THRESHOLDS[int(self.mean_iou.argmax())]

    def at(self, threshold: float) -> SegmentationScores:
        """Return the scores at a threshold."""
        return scores_of(self.counts[THRESHOLDS.index(threshold)])


def curve_of(batches: Iterable[tuple[SeedMaps, Tensor]], num_classes: int) -> Curve:
    """Measure batches of seeds and ground truth masks (B, H, W) of the same size."""
    counts = torch.zeros(len(THRESHOLDS), num_classes, num_classes, dtype=torch.int64)
    for seeds, truth in batches:
        counts += confusions(seeds.score, seeds.classes.argmax(1) + 1, truth, num_classes).cpu()
    return Curve(counts)
