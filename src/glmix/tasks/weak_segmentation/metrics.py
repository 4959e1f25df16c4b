"""Criteria for every background threshold of seeds: mean IoU against ground truth masks, and one without masks."""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from ..segmentation.metrics import SegmentationScores, scores_of
from .seeds import SeedMaps

__all__ = ["THRESHOLDS", "Curve", "confusions", "curve_of", "explained_shares"]

THRESHOLDS = tuple(round(0.02 * k, 2) for k in range(1, 50))
IGNORE = 255
SMALLEST = 0.5  # minimum pixels of the feature grid; smaller parts count as empty


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
        """Threshold with the highest mean IoU. Choose it on other images than the reported ones."""
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


def explained_shares(score: Tensor, features: Tensor) -> Tensor:
    """Return the share of the features' variance that the foreground at each of `THRESHOLDS` explains.

    Masks that follow the objects divide an image into regions with uniform features. This is Otsu's criterion, applied
    to the features instead of the scores. The first stage's features are fine and separate objects from the background
    best; classes matter only through the scores.

    With f the features of an image minus their mean, the share is (|sum of f over the foreground|^2 / its pixels +
    |sum of f over the background|^2 / its pixels) / sum of |f|^2.

    Args:
        score: foreground score (B, H, W), from 0 to 1.
        features: (B, C, h, w), on a grid that may be coarser.

    Returns:
        (B, T), from 0 to 1; 0 where the foreground is empty or is the whole image.
    """
    f = features.float().flatten(2)
    f = f - f.mean(2, keepdim=True)
    total = f.square().sum((1, 2)).clamp_min(torch.finfo(f.dtype).tiny)  # (B,)
    grid = (features.shape[2], features.shape[3])
    shares = []
    for threshold in THRESHOLDS:
        part = F.adaptive_avg_pool2d((score >= threshold).to(f)[:, None], grid).flatten(2)  # (B, 1, N)
        foreground = part.sum((1, 2))
        background = part.shape[2] - foreground
        sums = (f * part).sum(2).square().sum(1)  # (B,); equal for the background, because f has mean 0
        share = sums * (1 / foreground.clamp_min(SMALLEST) + 1 / background.clamp_min(SMALLEST)) / total
        shares.append(torch.where((foreground < SMALLEST) | (background < SMALLEST), 0.0, share))
    return torch.stack(shares, 1)
