"""Choice of the background threshold without ground truth masks.

Masks that follow the objects divide an image into regions with uniform features. For each threshold, an image is
divided into foreground and background, and the between-class share of the variance of its features is computed: Otsu's
criterion, applied to the features instead of the scores. The first stage's features are fine and separate objects from
the background best; classes matter only through the scores.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from .metrics import THRESHOLDS

__all__ = ["explained_shares"]

SMALLEST = 0.5  # pixels of the feature grid: smaller parts count as empty


def explained_shares(score: Tensor, features: Tensor) -> Tensor:
    """Return the share of the features' variance that the foreground at each of `THRESHOLDS` explains.

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
