"""Unsupervised object discovery: objects found from the slots of a trained classifier, without masks.

There are two methods. The cut: the normalised cut of the slot kernel divides the image in two, and the connected
components on the object side are the objects. k-means: pixels are clustered by the square roots of their assignments,
whose distances are Hellinger distances between distributions over slots; clusters that lie mostly on the object side
of the cut are the objects.

Controls need no training or no slots: the same methods with an untrained network, with the features from which slots
are clustered, and shapes that do not depend on the image.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from ...errors import InputError, needs_extra
from ...models import GLNet
from ..cut import orient_cut, slot_kernel
from ..evidence import class_activation
from ..maps import BlockMaps, recording
from . import scores
from .batch import batches, concat_features, normalised_images, sqrt_assignments
from .controls import BLUR, Superpixels, features_cut, kmeans_segments, record_features, regular_cells, untrained_like
from .truth import Truth

__all__ = ["CONTROLS", "METHODS", "METRICS", "Discovered", "components", "discover", "on_side"]

Labels = NDArray[np.integer[Any]]

# {name: description}
METHODS = {
    "cut": "two-way normalised cut of the slots' kernel; objects are connected parts",
    "k-means": "k-means on the square roots of the assignments; objects are clusters on the object side of the cut",
}
CONTROLS = {
    "untrained cut": "the cut with an untrained network of the same architecture",
    "untrained k-means": "k-means with an untrained network of the same architecture",
    "features cut": "a normalised cut on the cosine between the features that slots are clustered from",
    "features k-means": "k-means on the features that slots are clustered from",
    "class evidence": "no slots: pixels whose evidence for all classes together is above the mean of the image",
    "superpixels": "no network: as many superpixels of the blurred image; objects lie mostly in the centre box",
    "centre box": "a centred box with half the sides of the image, independent of its content",
    "2 x 2 grid": "the four quarters of the image, independent of its content",
}
METRICS = {
    "foreground_iou": "foreground IoU",
    "mean_best_overlap": "mBO",
    "corloc": "CorLoc",
    "foreground_ari": "ARI-FG",
}


@dataclass(frozen=True, eq=False)
class Discovered:
    """Objects found in one image.

    Args:
        truth: the image and its ground truth.
        groups: `{method or control: (H, W)}`, objects numbered from 1, 0 for the background.
        rows: `{method or control: {metric: value}}`; NaN where a metric is not defined.
    """

    truth: Truth
    groups: dict[str, Labels]
    rows: dict[str, dict[str, float]]


def components(mask: NDArray[np.bool_]) -> Labels:
    """Label the 4-connected components of a mask: (H, W), numbered from 1 by size, the largest first, and 0 outside."""
    with needs_extra("slots", "connected components"):
        from skimage.measure import label
    parts = label(mask, connectivity=1)
    sizes = np.bincount(parts.ravel())[1:]
    rank = np.zeros(len(sizes) + 1, np.int64)
    rank[1 + np.argsort(-sizes, kind="stable")] = np.arange(1, len(sizes) + 1)
    found: Labels = rank[parts]
    return found


def on_side(clusters: Labels, side: NDArray[np.bool_]) -> Labels:
    """Convert clusters (H, W) to objects: clusters mostly inside `side` are numbered from 1, all others are 0."""
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
    """Find the objects of every image with all methods and controls, and score them.

    Args:
        model: a classifier. Its training or evaluation mode is restored.
        truths: images with ground truth.
        blocks: as in `slot_maps`; the kernels of several blocks are averaged.
        clusters: number of clusters of k-means.
        sign: side of a cut that is the object: the side that is not at the `border` of the image, or the side with the
            evidence for `classes`.
        seed: random seed of the untrained network and of k-means.
        batch_size: maximum number of images per batch.
        progress: called after each batch with its number of images.

    Raises:
        InputError: an option is out of range, or there are no images.
    """
    if clusters < 2:
        raise InputError(f"k-means needs at least 2 clusters, got {clusters}.")
    if sign not in ("border", "classes"):
        raise InputError(f"sign must be 'border' or 'classes', got {sign!r}.")
    fresh = untrained_like(model, seed)
    results = []
    for batch in batches(truths, batch_size):
        images = normalised_images(model, batch)
        size = (batch[0].image.shape[0], batch[0].image.shape[1])
        with record_features(model) as kept:
            maps, evidence = _maps_and_evidence(model, images, blocks)
        others, _ = _maps_and_evidence(fresh, images, blocks)
        features = concat_features([kept[block.name] for block in maps])
        cuts = {
            "cut": slot_kernel(maps).cuts()[1][:, 0],
            "untrained cut": slot_kernel(others).cuts()[1][:, 0],
            "features cut": features_cut(features),
        }
        sides = {name: orient_cut(cut, evidence if sign == "classes" else None) for name, cut in cuts.items()}
        sides["class evidence"] = evidence - evidence.mean((1, 2), keepdim=True)
        points = {"": sqrt_assignments(maps), "untrained ": sqrt_assignments(others), "features ": features}
        masks = {name: (_resize(side, size) > 0).cpu().numpy() for name, side in sides.items()}
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


def _maps_and_evidence(model: GLNet, images: Tensor, blocks: Sequence[int] | None) -> tuple[list[BlockMaps], Tensor]:
    """Return slot maps, and the sum of the positive class activations (B, h, w)."""
    with recording(model, blocks) as maps:
        activation = class_activation(model, images).float()
    return maps, activation.clamp_min(0).sum(1)


def _resize(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize maps (B, h, w) with bilinear interpolation."""
    return F.interpolate(maps[:, None].float(), size, mode="bilinear", align_corners=False)[:, 0]


def _centre_box(height: int, width: int) -> Labels:
    """Return a mask of a box with half the sides of the image in its centre."""
    box = np.zeros((height, width), np.int64)
    box[height // 4 : height - height // 4, width // 4 : width - width // 4] = 1
    return box


def _row(groups: Labels, truth: Truth) -> dict[str, float]:
    """Return the scores of the objects in one image. CorLoc uses the largest connected component."""
    mask = groups > 0
    row = dict.fromkeys(METRICS, float("nan"))
    if truth.foreground is not None:
        row["foreground_iou"] = scores.foreground_iou(mask, truth.foreground)
    if truth.objects is not None:
        row["mean_best_overlap"] = scores.mean_best_overlap(groups, truth.objects)
        row["corloc"] = scores.is_localised(components(mask) == 1, truth.objects)
        row["foreground_ari"] = scores.foreground_ari(groups, truth.objects)
    return row
