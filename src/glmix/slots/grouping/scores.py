"""Scores of segmentations against ground truth: functions of label maps.

`labels` (H, W) numbers the segments of an image from 0, in any order. `truth` (H, W) numbers its regions and `objects`
(H, W) its objects, with 0 for the background. Negative values mark unknown pixels, which are ignored. A score that is
not defined for an image is NaN.

The contingency table and the adjusted Rand index of scikit-learn, and the boundaries of scikit-image, have the same
values as those of this module, and take 14 to 60 times as long on images of 224 and 512 pixels per side.
"""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torchvision.ops import box_iou, masks_to_boxes

from ...errors import InputError, needs_extra

__all__ = [
    "achievable_accuracy",
    "boundary_precision",
    "boundary_recall",
    "boundary_tolerance",
    "contingency",
    "dead_slots",
    "fill_unknown",
    "foreground_ari",
    "foreground_iou",
    "is_localised",
    "mean_best_overlap",
    "oracle_iou",
    "purity",
    "undersegmentation_error",
]

Ints = NDArray[np.integer[Any]]
Bools = NDArray[np.bool_]


def contingency(labels: Ints, truth: Ints) -> NDArray[np.int64]:
    """Return the number of shared pixels (segments, regions), without empty segments and regions.

    Raises:
        InputError: the shapes differ, or a segment has a negative number.
    """
    if labels.shape != truth.shape:
        raise InputError(f"Labels and ground truth must have the same shape, got {labels.shape} and {truth.shape}.")
    known = truth >= 0
    segments, regions = labels[known].astype(np.int64), truth[known].astype(np.int64)
    if not len(segments):
        return np.zeros((0, 0), np.int64)
    if segments.min() < 0:
        raise InputError(f"Segments are numbered from 0, got {segments.min()}.")
    columns = int(regions.max()) + 1
    shared = np.bincount(segments * columns + regions, minlength=(int(segments.max()) + 1) * columns)
    table = shared.reshape(-1, columns)
    return table[table.any(1)][:, table.any(0)]


def achievable_accuracy(labels: Ints, truth: Ints) -> float:
    """Return the achievable segmentation accuracy.

    It is the fraction of correct pixels if every segment is assigned to the region with which it shares most pixels, an
    upper bound for these segments.
    """
    table = contingency(labels, truth)
    return float(table.max(1).sum() / table.sum()) if table.size else float("nan")


def purity(labels: Ints, truth: Ints) -> float:
    """Return the mean over segments of the largest fraction of the segment that lies in one region.

    All segments have the same weight. The mean over pixels would be the achievable segmentation accuracy.
    """
    table = contingency(labels, truth)
    return float((table.max(1) / table.sum(1)).mean()) if table.size else float("nan")


def undersegmentation_error(labels: Ints, truth: Ints) -> float:
    """Return how much segments leak across region boundaries, as a fraction of all pixels (Neubert and Protzel, 2012).

    It is the sum, over regions and the segments that overlap them, of the smaller part of the segment: inside or
    outside the region.
    """
    table = contingency(labels, truth)
    outside = table.sum(1, keepdims=True) - table
    return float(np.minimum(table, outside).sum() / table.sum()) if table.size else float("nan")


def boundary_tolerance(height: int, width: int) -> int:
    """Return the tolerance of boundary scores in pixels: 0.75 % of the diagonal, rounded, at least 1.

    It is 1 for square images of up to 141 pixels per side.
    """
    return max(1, round(0.0075 * float(np.hypot(height, width))))


def boundary_recall(labels: Ints, truth: Ints, tolerance: int | None = None) -> float:
    """Return the fraction of region boundary pixels that are near a segment boundary.

    A boundary pixel differs from one of its four neighbours. Near means within `tolerance` pixels along both axes, by
    default `boundary_tolerance`. Unknown pixels take the ground truth of the nearest known pixel.
    """
    return _boundary_match(_borders(fill_unknown(truth)), _borders(labels), tolerance)


def boundary_precision(labels: Ints, truth: Ints, tolerance: int | None = None) -> float:
    """Return the fraction of segment boundary pixels that are near a region boundary; see `boundary_recall`."""
    return _boundary_match(_borders(labels), _borders(fill_unknown(truth)), tolerance)


def oracle_iou(labels: Ints, objects: Ints) -> float:
    """Return the slot-oracle instance IoU: the highest IoU of an object with any union of segments.

    The result is averaged over objects.

    With a_s pixels of segment s inside the object and b_s outside, and A pixels of the object, the IoU of a union is
    sum(a) / (A + sum(b)). The best union consists of the segments with the highest a / b, so there are only as many
    candidates as segments.
    """
    shared, sizes, areas = _overlaps(labels, objects)
    best = []
    for inside, area in zip(shared.T, areas, strict=True):
        outside = sizes - inside
        order = np.argsort(-inside / sizes, kind="stable")  # the order of a / b, without a division by zero
        best.append((inside[order].cumsum() / (area + outside[order].cumsum())).max())
    return float(np.mean(best)) if best else float("nan")


def mean_best_overlap(labels: Ints, objects: Ints) -> float:
    """Return mBO: the highest IoU of an object with a single segment, averaged over objects."""
    shared, sizes, areas = _overlaps(labels, objects)
    if not len(areas):
        return float("nan")
    return float((shared / (sizes[:, None] + areas - shared)).max(0).mean())


def foreground_ari(labels: Ints, objects: Ints) -> float:
    """Return the adjusted Rand index between segments and objects over the pixels of objects.

    It is 1 for equal partitions and 0 on average for random ones. It ignores the background, so segments may extend
    beyond objects at no cost. It is not defined for images with fewer than two objects.
    """
    table = contingency(labels, np.where(objects > 0, objects, -1))
    if table.size == 0 or table.shape[1] < 2:
        return float("nan")
    together, by_segment, by_object = _pairs(table), _pairs(table.sum(1)), _pairs(table.sum(0))
    expected = by_segment * by_object / _pairs(table.sum())
    best = (by_segment + by_object) / 2
    return float((together - expected) / (best - expected)) if best != expected else 1.0


def foreground_iou(mask: Bools, objects: Ints) -> float:
    """Return the IoU of a mask with the union of all objects. It is not defined if both are empty."""
    known = objects >= 0
    predicted, true = mask[known], objects[known] > 0
    union = int((predicted | true).sum())
    return float((predicted & true).sum() / union) if union else float("nan")


def is_localised(mask: Bools, objects: Ints) -> float:
    """Return 1 if the bounding box of a mask has an IoU of at least 0.5 with the box of some object, else 0.

    Its mean over images is CorLoc, the correct localisation rate. It is not defined without objects.
    """
    numbers = np.unique(objects[objects > 0])
    if not len(numbers):
        return float("nan")
    if not mask.any():
        return 0.0
    boxes = masks_to_boxes(torch.from_numpy(np.stack([mask, *(objects == number for number in numbers)]))).double()
    boxes[:, 2:] += 1  # the first pixels outside
    return float(box_iou(boxes[:1], boxes[1:]).max() >= 0.5)


def dead_slots(labels: Ints, count: int) -> int:
    """Return how many of `count` slots are the strongest slot of no pixel."""
    return count - len(np.unique(labels))


def fill_unknown(truth: Ints) -> Ints:
    """Replace unknown (negative) pixels of the ground truth by the nearest known pixel, in 4-neighbour steps."""
    if (truth >= 0).all() or not (truth >= 0).any():
        return truth
    with needs_extra("slots", "ground truth with unknown pixels"):
        from scipy.ndimage import distance_transform_cdt  # type: ignore[import-untyped]
    nearest = distance_transform_cdt(truth < 0, "taxicab", return_distances=False, return_indices=True)
    filled: Ints = truth[tuple(nearest)]
    return filled


def _overlaps(labels: Ints, objects: Ints) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Return shared pixels (segments, objects), sizes of segments and sizes of objects.

    The sizes of segments include background pixels.
    """
    table = contingency(labels, objects)
    if table.size == 0:
        return table, table.sum(1), table.sum(0)
    shared = table[:, 1:] if (objects == 0).any() else table
    return shared, table.sum(1), shared.sum(0)


def _borders(labels: Ints) -> Bools:
    """Return a mask of pixels that differ from one of their four neighbours. The image edge is not a boundary."""
    borders = np.zeros(labels.shape, bool)
    down, across = labels[1:] != labels[:-1], labels[:, 1:] != labels[:, :-1]
    borders[1:] |= down
    borders[:-1] |= down
    borders[:, 1:] |= across
    borders[:, :-1] |= across
    return borders


def _boundary_match(borders: Bools, others: Bools, tolerance: int | None) -> float:
    """Return the fraction of boundary pixels that have a pixel of `others` within the tolerance."""
    if tolerance is None:
        tolerance = boundary_tolerance(*borders.shape)
    if tolerance < 0:
        raise InputError(f"tolerance must be 0 pixels or more, got {tolerance}.")
    if not borders.any():
        return float("nan")
    with needs_extra("slots", "boundary scores"):
        from scipy.ndimage import maximum_filter
    near = maximum_filter(others, 2 * tolerance + 1, mode="constant")
    return float(near[borders].mean())


def _pairs(counts: NDArray[np.int64]) -> float:
    """Return the number of pairs of pixels in the same cell."""
    wide = np.asarray(counts, np.float64)
    return float((wide * (wide - 1) / 2).sum())
