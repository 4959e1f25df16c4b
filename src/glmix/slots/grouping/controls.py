"""What makes grouping scores mean something: segments that took no training, or no slots, as many as the slots made.

An untrained network of the same architecture, a regular grid, superpixels of the image's colours (SLIC), and k-means on
the very features that a block's slots are clustered from.
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

from ...errors import InputError, MissingExtraError
from ...layers import Bridge
from ...models import GLNet
from ..maps import blocks_with_slots

__all__ = ["BLUR", "Superpixels", "dense_cut", "features_of", "kmeans_segments", "regular_cells", "untrained_like"]

Labels = NDArray[np.int64]
BLUR = 1 / 32  # for superpixels: of 1/64, 1/32, 3/64 and 1/16 the best on training scenes
TRIES = 8  # for a number of superpixels that SLIC does not promise


def untrained_like(model: GLNet, seed: int = 0) -> GLNet:
    """A network of the same architecture, slots, device and dtype with the weights of a fresh start, in evaluation
    mode. The global random state is as it was afterwards."""
    fresh = copy.deepcopy(model)
    with torch.random.fork_rng(devices=[p.device for p in model.parameters() if p.is_cuda][:1]):
        torch.manual_seed(seed)
        fresh.init_weights()
    return fresh.eval()


@contextmanager
def features_of(model: GLNet) -> Iterator[dict[str, Tensor]]:
    """While it lasts, every forward pass leaves the features (B, C, h, w) that a block's slots are clustered from under
    the block's name."""
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
    """Exactly `count` cells of equal area that are as near to squares as can be: (height, width), numbered by rows.

    Rows of cells are as high as the number of cells in them asks for, so that numbers such as 7 have a layout as well.
    """
    if not 1 <= count <= height * width:
        raise InputError(f"{width} x {height} pixels can be parted into 1 to {height * width} cells, got {count}.")
    rows = min(max(1, round(float(np.sqrt(count * height / width)))), count, height)
    while -(-count // rows) > width:
        rows += 1
    ends = [count * (row + 1) // rows for row in range(rows)]  # cells up to the end of each row
    labels = np.empty((height, width), np.int64)
    top = begin = 0
    for row, end in enumerate(ends):
        # at least one line of pixels for this row and for each that follows
        bottom = min(max(round(height * end / count), top + 1), height - (rows - 1 - row))
        labels[top:bottom] = begin + np.arange(width) * (end - begin) // width
        top, begin = bottom, end
    return labels


class Superpixels:
    """SLIC superpixels of an RGB image (H, W, 3), as near to a number of them as some tries come.

    Args:
        blur: standard deviation of the blur that comes first, as a share of the shorter side. Without it, SLIC follows
            noise and texture.
    """

    def __init__(self, image: NDArray[np.uint8], blur: float = 0.0) -> None:
        self.image = image
        self.sigma = blur * min(image.shape[:2])
        self.made: dict[int, Labels] = {}

    def near(self, count: int) -> Labels:
        """Labels from 0, about `count` of them: SLIC takes a number for advice."""
        best, missed, asked = np.zeros(self.image.shape[:2], np.int64), count - 1, count
        tried: set[int] = set()
        while missed > count // 12 and asked >= 2 and len(tried) < TRIES:
            labels = self._asked(asked)
            found = int(labels.max()) + 1
            if abs(found - count) < missed:
                best, missed = labels, abs(found - count)
            tried.add(asked)
            asked = max(2, round(asked * min(max(count / found, 0.7), 1.5)))
            while asked in tried:
                asked += 1 if found < count else -1
        return best

    def _asked(self, number: int) -> Labels:
        try:
            from skimage.segmentation import slic
        except ImportError as error:
            raise MissingExtraError(
                f"Superpixels need the extra `slots` ({error}): pip install 'glmix[slots]'."
            ) from error
        if number not in self.made:
            labels = slic(self.image, n_segments=number, compactness=10, sigma=self.sigma, start_label=0)
            self.made[number] = labels.astype(np.int64)
        return self.made[number]


def kmeans_segments(features: Tensor, count: int, size: tuple[int, int], seed: int = 0) -> Labels:
    """k-means of one image's features (C, h, w), each of length one, into `count` clusters: labels on `size`.

    Distances to the centres are interpolated, then the nearest one is taken, just as slots' logits are interpolated
    before the strongest is taken: k-means has the same resolution as the slots that it is compared with.
    """
    try:
        from sklearn.cluster import KMeans  # type: ignore[import-untyped]
        from sklearn.exceptions import ConvergenceWarning  # type: ignore[import-untyped]
    except ImportError as error:
        raise MissingExtraError(f"k-means needs the extra `slots` ({error}): pip install 'glmix[slots]'.") from error
    grid = features.shape[1:]
    points = F.normalize(features.detach().double().flatten(1), dim=0).T.cpu().numpy()  # (N, C)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # fewer different points than clusters
        fitted = KMeans(min(count, len(points)), n_init=1, random_state=seed).fit(points)
    distances = torch.from_numpy(fitted.transform(points) ** 2).T.unflatten(1, grid)  # (count, h, w)
    nearest: Labels = F.interpolate(distances[None], size, mode="bilinear", align_corners=False)[0].argmin(0).numpy()
    return nearest


def dense_cut(features: Tensor, most: int = 576) -> Tensor:
    """The normalised cut on the cosine between features (B, C, h, w), as far as it is positive: (B, h', w').

    What SlotCut does without the kernel of all pairs of pixels, done with it, as large as it is: grids of more than
    `most` pixels are averaged to smaller ones.
    """
    smaller = min(1.0, (most / (features.shape[2] * features.shape[3])) ** 0.5)
    grid = (max(1, int(features.shape[2] * smaller)), max(1, int(features.shape[3] * smaller)))
    pixels = F.normalize(F.adaptive_avg_pool2d(features.double(), grid).flatten(2), dim=1)  # (B, C, N)
    weights = (pixels.transpose(1, 2) @ pixels).clamp_min(0) + 1e-9
    roots = weights.sum(2).sqrt()  # (B, N): of the degrees
    _, vectors = torch.linalg.eigh(weights / (roots.unsqueeze(1) * roots.unsqueeze(2)))
    second = vectors[:, :, -2] if vectors.shape[2] > 1 else torch.zeros_like(roots)
    return (second / roots).unflatten(1, grid).to(features.dtype)
