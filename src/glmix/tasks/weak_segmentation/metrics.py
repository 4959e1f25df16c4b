"""How good seeds are at every background threshold by ground truth, and which threshold is the best."""

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
    """(T, K, K) int64: the confusion matrix at each of `THRESHOLDS`, truth in rows. Class 0 is the background.

    Every pixel is put into the interval of its score once, instead of being judged T times.

    Args:
        score: (...), of the foreground.
        classes: (...), from 1: what a pixel is if it is foreground.
        truth: (...), `IGNORE` where nothing is known.
        num_classes: K, with the background.
    """
    counted = truth != IGNORE
    score, classes, truth = score[counted], classes[counted].long(), truth[counted].long()
    # how many thresholds a pixel reaches: at those it is foreground
    reached = torch.bucketize(score.contiguous(), torch.tensor(THRESHOLDS).to(score), right=True)
    levels = len(THRESHOLDS) + 1
    places = (reached * num_classes + truth) * num_classes + classes
    counts = torch.bincount(places, minlength=levels * num_classes**2).view(levels, num_classes, num_classes)
    foreground = counts.flip(0).cumsum(0).flip(0)[1:]  # (T, K, K): of the pixels that reach each threshold
    background = counts.sum(0) - foreground
    foreground[:, :, 0] += background.sum(2)
    return foreground


@dataclass(frozen=True, eq=False)
class Curve:
    """The confusion matrices (T, K, K) of seeds at each of `THRESHOLDS`."""

    counts: Tensor

    @property
    def mean_iou(self) -> Tensor:
        """(T,)"""
        return torch.stack([scores_of(confusion).mean_iou for confusion in self.counts])

    @property
    def best(self) -> float:
        """The threshold with the highest mean IoU: to be taken from images that nothing is reported on."""
        return THRESHOLDS[int(self.mean_iou.argmax())]

    def at(self, threshold: float) -> SegmentationScores:
        return scores_of(self.counts[THRESHOLDS.index(threshold)])


def curve_of(batches: Iterable[tuple[SeedMaps, Tensor]], num_classes: int) -> Curve:
    """From pairs of seeds and true masks (B, H, W) of the same size."""
    counts = torch.zeros(len(THRESHOLDS), num_classes, num_classes, dtype=torch.int64)
    for seeds, truth in batches:
        counts += confusions(seeds.score, seeds.classes.argmax(1) + 1, truth, num_classes).cpu()
    return Curve(counts)
