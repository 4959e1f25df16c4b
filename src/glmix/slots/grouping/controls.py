"""Controls for grouping scores: segmentations without training or without slots, with the same number of segments.

The controls are an untrained network of the same architecture, a regular grid, superpixels of the image's colours
(SLIC), and k-means on the features from which a block's slots are clustered.
"""

import copy
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from ...errors import InputError, needs_extra
from ...layers import Bridge
from ...models import GLNet
from ..cut import dense_cut
from ..maps import blocks_with_slots

__all__ = [
    "BLUR",
    "Superpixels",
    "features_cut",
    "record_features",
    "kmeans_segments",
    "regular_cells",
    "untrained_like",
]

Labels = NDArray[np.int64]
BLUR = 1 / 32  # for superpixels: the best of 1/64, 1/32, 3/64 and 1/16 on training scenes
TRIES = 8  # attempts to reach a number of superpixels, which SLIC treats as approximate


def untrained_like(model: GLNet, seed: int = 0) -> GLNet:
    """Return a newly initialised copy of a model, in evaluation mode. The global random state is restored."""
    fresh = copy.deepcopy(model)
    with torch.random.fork_rng(devices=[p.device for p in model.parameters() if p.is_cuda][:1]):
        torch.manual_seed(seed)
        fresh.init_weights()
    return fresh.eval()


@contextmanager
def record_features(model: GLNet) -> Iterator[dict[str, Tensor]]:
    """Record the features from which slots are clustered, in every forward pass inside a `with` block.

    Yields:
        `{block name: features (B, C, h, w)}` of the last forward pass.
    """
    found: dict[str, Tensor] = {}

    def keep(name: str) -> Any:
        def on_bridge(bridge: Bridge, args: tuple[Any, ...], pair: Any) -> None:
            found[name] = args[0].detach()

        return on_bridge

    mixers = blocks_with_slots(model)
    handles = [m.bridge.register_forward_hook(keep(name)) for name, m in mixers.items() if m.bridge is not None]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()


def regular_cells(height: int, width: int, count: int) -> Labels:
    """Divide an image into exactly `count` cells of equal area, as square as possible: (height, width), row by row.

    The height of a row of cells is proportional to the number of cells in it, so that primes such as 7 are possible.

    Raises:
        InputError: `count` is not between 1 and the number of pixels.
    """
    if not 1 <= count <= height * width:
        raise InputError(f"{width} x {height} pixels can be divided into 1 to {height * width} cells, got {count}.")
    rows = min(max(1, round(float(np.sqrt(count * height / width)))), count, height)
    while -(-count // rows) > width:
        rows += 1
    ends = [count * (row + 1) // rows for row in range(rows)]  # number of cells up to the end of each row
    labels = np.empty((height, width), np.int64)
    top = begin = 0
    for row, end in enumerate(ends):
        # at least one line of pixels for this row of cells and for each row below
        bottom = min(max(round(height * end / count), top + 1), height - (rows - 1 - row))
        labels[top:bottom] = begin + np.arange(width) * (end - begin) // width
        top, begin = bottom, end
    return labels


class Superpixels:
    """SLIC superpixels of an RGB image (H, W, 3).

    Args:
        image: the image.
        blur: standard deviation of the Gaussian blur before SLIC, as a fraction of the shorter side. Without blur, SLIC
            follows noise and texture.
    """

    def __init__(self, image: NDArray[np.uint8], blur: float = 0.0) -> None:
        self.image = image
        self.sigma = blur * min(image.shape[:2])
        self.made: dict[int, Labels] = {}

    def near(self, count: int) -> Labels:
        """Return labels from 0 with approximately `count` segments, the best of some attempts with SLIC."""
        best, error, requested = np.zeros(self.image.shape[:2], np.int64), count - 1, count
        tried: set[int] = set()
        while error > count // 12 and requested >= 2 and len(tried) < TRIES:
            labels = self._slic(requested)
            found = int(labels.max()) + 1
            if abs(found - count) < error:
                best, error = labels, abs(found - count)
            tried.add(requested)
            requested = max(2, round(requested * min(max(count / found, 0.7), 1.5)))
            while requested in tried:
                requested += 1 if found < count else -1
        return best

    def _slic(self, number: int) -> Labels:
        """Run SLIC with a requested number of segments, once per number."""
        with needs_extra("slots", "superpixels"):
            from skimage.segmentation import slic
        if number not in self.made:
            labels = slic(self.image, n_segments=number, compactness=10, sigma=self.sigma, start_label=0)
            self.made[number] = labels.astype(np.int64)
        return self.made[number]


def kmeans_segments(features: Tensor, count: int, size: tuple[int, int], seed: int = 0) -> Labels:
    """Cluster the features (C, h, w) of one image, scaled to unit norm, by k-means.

    Distances to the cluster centres are interpolated before the nearest centre is chosen, like logits of slots before
    the strongest slot is chosen. k-means therefore has the same resolution as the slots.

    Args:
        features: (C, h, w).
        count: number of clusters.
        size: height and width of the result.
        seed: random seed.

    Returns:
        Labels of the given size.
    """
    with needs_extra("slots", "k-means"):
        from sklearn.cluster import KMeans  # type: ignore[import-untyped]
        from sklearn.exceptions import ConvergenceWarning  # type: ignore[import-untyped]
    grid = features.shape[1:]
    points = F.normalize(features.detach().double().flatten(1), dim=0).T.cpu().numpy()  # (N, C)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # raised if there are fewer distinct points than clusters
        fitted = KMeans(min(count, len(points)), n_init=1, random_state=seed).fit(points)
    distances = torch.from_numpy(fitted.transform(points) ** 2).T.unflatten(1, grid)  # (count, h, w)
    nearest: Labels = F.interpolate(distances[None], size, mode="bilinear", align_corners=False)[0].argmin(0).numpy()
    return nearest


def features_cut(features: Tensor, most: int = 576) -> Tensor:
    """Return the normalised cut of the positive part of the cosine between features (B, C, h, w): (B, h', w').

    This is SlotCut with an explicit kernel of all pairs of pixels. Grids of more than `most` pixels are averaged to
    smaller ones.
    """
    smaller = min(1.0, (most / (features.shape[2] * features.shape[3])) ** 0.5)
    grid = (max(1, int(features.shape[2] * smaller)), max(1, int(features.shape[3] * smaller)))
    pixels = F.normalize(F.adaptive_avg_pool2d(features.double(), grid).flatten(2), dim=1)  # (B, C, N)
    weights = (pixels.transpose(1, 2) @ pixels).clamp_min(0) + 1e-9
    return dense_cut(weights).unflatten(1, grid).to(features.dtype)
