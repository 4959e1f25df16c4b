"""Objects found without masks: what the slots of a trained classifier part from the rest of the image.

Two ways. The cut: the normalised cut of the slots' kernel parts the image in two, and the connected parts of the object
side are the objects. k-means: pixels are clustered by the square roots of their assignments, whose distances are those
of Hellinger between distributions over slots; clusters of which most lies on the object side of the cut are objects.

Beside them stand what needs no training or no slots: the same ways with an untrained network, with the features that
slots are clustered from, and figures that do not look at the image.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from ...errors import InputError, MissingExtraError
from ...models import GLNet
from ..cam import class_activation
from ..cut import oriented, slot_kernel
from ..maps import BlockMaps, recording
from . import scores
from .batch import batches, images_of, roots_of, stacked
from .controls import BLUR, Superpixels, dense_cut, features_of, kmeans_segments, regular_cells, untrained_like
from .truth import Truth

__all__ = ["CONTROLS", "METHODS", "METRICS", "Discovered", "components", "discover", "on_side"]

Labels = NDArray[np.integer[Any]]

# {name: what it is}
METHODS = {
    "cut": "two-way normalised cut of the slots' kernel; objects are connected parts",
    "k-means": "k-means on the square roots of the assignments; objects are clusters on the object side of the cut",
}
CONTROLS = {
    "untrained cut": "the cut with an untrained network of the same architecture",
    "untrained k-means": "k-means with an untrained network of the same architecture",
    "features cut": "a normalised cut on the cosine between the features that slots are clustered from",
    "features k-means": "k-means on the features that slots are clustered from",
    "class evidence": "no slots: where all classes together have more evidence than in the mean of the image",
    "superpixels": "no network: as many superpixels of the blurred image; objects lie mostly in the centre box",
    "centre box": "a box of half the image's sides in its middle, whatever the image shows",
    "2 x 2 grid": "the four quarters of the image, whatever it shows",
}
METRICS = {
    "foreground_iou": "foreground IoU",
    "mean_best_overlap": "mBO",
    "corloc": "CorLoc",
    "foreground_ari": "ARI-FG",
}


@dataclass(frozen=True, eq=False)
class Discovered:
    """What was found in one image.

    Args:
        truth: of the image.
        groups: {method or control: (H, W)}, objects numbered from 1, 0 for the background.
        rows: {method or control: {metric: value}}; NaN where a metric is not defined.
    """

    truth: Truth
    groups: dict[str, Labels]
    rows: dict[str, dict[str, float]]


def components(mask: NDArray[np.bool_]) -> Labels:
    """The connected parts of a mask, corners not counted as connections: (H, W), the largest is 1, and 0 outside."""
    try:
        from skimage.measure import label
    except ImportError as error:
        raise MissingExtraError(
            f"Connected parts need the extra `slots` ({error}): pip install 'glmix[slots]'."
        ) from error
    parts = label(mask, connectivity=1)
    sizes = np.bincount(parts.ravel())[1:]
    rank = np.zeros(len(sizes) + 1, np.int64)
    rank[1 + np.argsort(-sizes, kind="stable")] = np.arange(1, len(sizes) + 1)
    found: Labels = rank[parts]
    return found


def on_side(clusters: Labels, side: NDArray[np.bool_]) -> Labels:
    """Clusters (H, W) as objects: those of which most lies on `side` are numbered from 1, the others are 0."""
    names, at = np.unique(clusters, return_inverse=True)
    at = at.reshape(clusters.shape)
    inside = np.bincount(at.ravel(), side.ravel(), len(names)) > np.bincount(at.ravel()) / 2
    numbers: Labels = np.where(inside, np.cumsum(inside), 0)
    return numbers[at]


def discover(
    model: GLNet,
    truths: Iterable[Truth],
    *,
    blocks: Sequence[int] | None = None,
    clusters: int = 4,
    sign: Literal["border", "classes"] = "border",
    seed: int = 0,
    batch_size: int = 16,
    progress: Callable[[int], object] | None = None,
) -> list[Discovered]:
    """Find the objects of every image, by all methods and controls, and score them.

    Args:
        model: a classifier, in evaluation mode or not; it stays as it was.
        blocks: as in `slot_maps`; the kernels of several blocks are averaged.
        clusters: of k-means.
        sign: which side of a cut is the object: the one that the `border` of the image is not, or the one where
            `classes` have their evidence.
        seed: of the untrained network's weights and of k-means.
        progress: is told how many images are done, batch by batch.
    """
    if clusters < 2:
        raise InputError(f"k-means needs at least 2 clusters to part an image, got {clusters}.")
    if sign not in ("border", "classes"):
        raise InputError(f"sign must be 'border' or 'classes', got {sign!r}.")
    fresh = untrained_like(model, seed)
    results = []
    for batch in batches(truths, batch_size):
        images = images_of(model, batch)
        size = (batch[0].image.shape[0], batch[0].image.shape[1])
        with features_of(model) as kept:
            maps, evidence = _seen(model, images, blocks)
        others, _ = _seen(fresh, images, blocks)
        features = stacked([kept[block.name] for block in maps])
        cuts = {
            "cut": slot_kernel(maps).cuts()[1][:, 0],
            "untrained cut": slot_kernel(others).cuts()[1][:, 0],
            "features cut": dense_cut(features),
        }
        sides = {name: oriented(cut, evidence if sign == "classes" else None) for name, cut in cuts.items()}
        sides["class evidence"] = evidence - evidence.mean((1, 2), keepdim=True)
        points = {"": roots_of(maps), "untrained ": roots_of(others), "features ": features}
        masks = {name: (_enlarged(side, size) > 0).cpu().numpy() for name, side in sides.items()}
        for i, truth in enumerate(batch):
            groups = {name: components(mask[i]) for name, mask in masks.items()}
            for whose, pixels in points.items():
                found = kmeans_segments(pixels[i], clusters, size, seed)
                groups[f"{whose}k-means"] = on_side(found, masks[f"{whose}cut"][i])
            box = _centre_box(*size)
            groups["superpixels"] = on_side(Superpixels(truth.image, BLUR).near(clusters), box > 0)
            groups |= {"centre box": box, "2 x 2 grid": regular_cells(*size, 4) + 1}
            groups = {name: groups[name] for name in (*METHODS, *CONTROLS)}
            results.append(Discovered(truth, groups, {name: _row(found, truth) for name, found in groups.items()}))
        if progress is not None:
            progress(len(batch))
    if not results:
        raise InputError("There are no images to find objects in.")
    return results


def _seen(model: GLNet, images: Tensor, blocks: Sequence[int] | None) -> tuple[list[BlockMaps], Tensor]:
    """Slot maps, and what speaks for classes at each place (B, h, w): the sum of their positive activations."""
    with recording(model, blocks) as maps:
        activation = class_activation(model, images).float()
    return maps, activation.clamp_min(0).sum(1)


def _enlarged(maps: Tensor, size: tuple[int, int]) -> Tensor:
    return F.interpolate(maps[:, None].float(), size, mode="bilinear", align_corners=False)[:, 0]


def _centre_box(height: int, width: int) -> Labels:
    box = np.zeros((height, width), np.int64)
    box[height // 4 : height - height // 4, width // 4 : width - width // 4] = 1
    return box


def _row(groups: Labels, truth: Truth) -> dict[str, float]:
    """Scores of what was found; the largest connected part is what CorLoc looks at."""
    mask = groups > 0
    row = dict.fromkeys(METRICS, float("nan"))
    if truth.foreground is not None:
        row["foreground_iou"] = scores.foreground_iou(mask, truth.foreground)
    if truth.objects is not None:
        row["mean_best_overlap"] = scores.mean_best_overlap(groups, truth.objects)
        row["corloc"] = scores.localised(components(mask) == 1, truth.objects)
        row["foreground_ari"] = scores.foreground_ari(groups, truth.objects)
    return row
