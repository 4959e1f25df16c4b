"""How well segments fit what is known about an image: plain functions of label maps, each defined in its docstring.

`labels` (H, W) numbers the segments of an image from 0, in any order. `truth` (H, W) numbers its regions and `objects`
(H, W) its objects, with 0 for the background; where they are negative, nothing is known and nothing is counted. A score
that is not defined for an image is NaN.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...errors import InputError

__all__ = [
    "achievable_accuracy",
    "boundary_precision",
    "boundary_recall",
    "boundary_tolerance",
    "box_around",
    "box_iou",
    "contingency",
    "dead_slots",
    "filled",
    "foreground_ari",
    "foreground_iou",
    "localised",
    "mean_best_overlap",
    "oracle_iou",
    "purity",
    "undersegmentation_error",
]

Ints = NDArray[np.integer[Any]]
Bools = NDArray[np.bool_]
Box = tuple[int, int, int, int]  # x1, y1, x2, y2; x2 and y2 are the first pixels outside


def contingency(labels: Ints, truth: Ints) -> NDArray[np.int64]:
    """How many pixels each segment shares with each region: (segments, regions), only those that have pixels."""
    if labels.shape != truth.shape:
        raise InputError(f"A label map of {labels.shape} pixels does not lie on a truth of {truth.shape}.")
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
    """Achievable segmentation accuracy: the share of pixels that are right if every segment is given the region with
    which it shares most pixels. No way of naming these segments does better."""
    table = contingency(labels, truth)
    return float(table.max(1).sum() / table.sum()) if table.size else float("nan")


def purity(labels: Ints, truth: Ints) -> float:
    """The mean over segments, large and small alike, of the largest share that one region has of the segment. (Its mean
    over pixels is the achievable segmentation accuracy.)"""
    table = contingency(labels, truth)
    return float((table.max(1) / table.sum(1)).mean()) if table.size else float("nan")


def undersegmentation_error(labels: Ints, truth: Ints) -> float:
    """How much segments leak across the borders of regions, a share of all pixels (Neubert and Protzel, 2012): over
    regions and the segments that touch them, the sum of the smaller part, inside or outside of the region."""
    table = contingency(labels, truth)
    outside = table.sum(1, keepdims=True) - table
    return float(np.minimum(table, outside).sum() / table.sum()) if table.size else float("nan")


def boundary_tolerance(height: int, width: int) -> int:
    """How many pixels borders may lie apart: 0.75 % of the diagonal, rounded, at least 1. 1 up to 141 pixels a side."""
    return max(1, round(0.0075 * float(np.hypot(height, width))))


def boundary_recall(labels: Ints, truth: Ints, tolerance: int | None = None) -> float:
    """The share of the borders between regions that have a border between segments near.

    A pixel is of a border if one of its four neighbours differs. Near is within `tolerance` pixels along both axes, by
    default `boundary_tolerance`. Where nothing is known, the truth is that of the nearest pixel.
    """
    return _matched(_borders(filled(truth)), _borders(labels), tolerance)


def boundary_precision(labels: Ints, truth: Ints, tolerance: int | None = None) -> float:
    """The share of the borders between segments that have a border between regions near, as in `boundary_recall`."""
    return _matched(_borders(labels), _borders(filled(truth)), tolerance)


def oracle_iou(labels: Ints, objects: Ints) -> float:
    """Slot-oracle instance IoU: of each object, the highest intersection over union that any union of segments has with
    it; the mean over objects.

    With a_s pixels of segment s inside the object and b_s outside, and A pixels of the object, it is the largest
    sum(a) / (A + sum(b)). The best set is made of the segments with the highest a / b, so only as many sets are tried
    as there are segments.
    """
    shared, sizes, areas = _overlaps(labels, objects)
    best = []
    for inside, area in zip(shared.T, areas, strict=True):
        outside = sizes - inside
        order = np.argsort(-inside / sizes, kind="stable")  # the order of a / b, without a division by zero
        best.append((inside[order].cumsum() / (area + outside[order].cumsum())).max())
    return float(np.mean(best)) if best else float("nan")


def mean_best_overlap(labels: Ints, objects: Ints) -> float:
    """mBO: of each object, the highest intersection over union that one segment has with it; the mean over objects."""
    shared, sizes, areas = _overlaps(labels, objects)
    if not len(areas):
        return float("nan")
    return float((shared / (sizes[:, None] + areas - shared)).max(0).mean())


def foreground_ari(labels: Ints, objects: Ints) -> float:
    """The adjusted Rand index between segments and objects over the pixels of objects: 1 for equal partitions, 0 for
    what chance gives. It does not see the background, so segments may spill over objects at no cost. Not defined for
    images with fewer than two objects."""
    table = contingency(labels, np.where(objects > 0, objects, -1))
    if table.size == 0 or table.shape[1] < 2:
        return float("nan")
    together, by_segment, by_object = _pairs(table), _pairs(table.sum(1)), _pairs(table.sum(0))
    expected = by_segment * by_object / _pairs(table.sum())
    best = (by_segment + by_object) / 2
    return float((together - expected) / (best - expected)) if best != expected else 1.0


def foreground_iou(mask: Bools, objects: Ints) -> float:
    """Intersection over union of a mask and all objects together. Not defined where there is neither."""
    known = objects >= 0
    predicted, true = mask[known], objects[known] > 0
    union = int((predicted | true).sum())
    return float((predicted & true).sum() / union) if union else float("nan")


def box_around(mask: Bools) -> Box | None:
    """The smallest box around a mask; None where it is empty."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    if not len(rows):
        return None
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


def box_iou(a: Box, b: Box) -> float:
    """Intersection over union of two boxes."""
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    shared = max(width, 0) * max(height, 0)
    return shared / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - shared)


def localised(mask: Bools, objects: Ints, threshold: float = 0.5) -> float:
    """Whether the box around a mask and that of some object have an intersection over union of `threshold` or more: 1
    or 0. Its mean over images is CorLoc, correct localisation. Not defined without objects."""
    boxes = [box_around(objects == number) for number in np.unique(objects[objects > 0])]
    if not boxes:
        return float("nan")
    found = box_around(mask)
    return float(found is not None and any(box is not None and box_iou(found, box) >= threshold for box in boxes))


def dead_slots(labels: Ints, count: int) -> int:
    """How many of `count` slots are the strongest one of no pixel."""
    return count - len(np.unique(labels))


def filled(truth: Ints) -> Ints:
    """The truth with what is not known (negative) given the number of the nearest pixel that is, in steps to the four
    neighbours."""
    if (truth >= 0).all() or not (truth >= 0).any():
        return truth
    found = truth.copy()
    while (found < 0).any():
        around = np.pad(found, 1, constant_values=-1)
        for neighbour in (around[:-2, 1:-1], around[2:, 1:-1], around[1:-1, :-2], around[1:-1, 2:]):
            found = np.where(found < 0, neighbour, found)
    return found


def _overlaps(labels: Ints, objects: Ints) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Shared pixels (segments, objects), sizes of segments and of objects; the background is a part of segments."""
    table = contingency(labels, objects)
    if table.size == 0:
        return table, table.sum(1), table.sum(0)
    shared = table[:, 1:] if (objects == 0).any() else table
    return shared, table.sum(1), shared.sum(0)


def _borders(labels: Ints) -> Bools:
    """Pixels of which one of the four neighbours is different; the edge of the image is no border."""
    borders = np.zeros(labels.shape, bool)
    down, across = labels[1:] != labels[:-1], labels[:, 1:] != labels[:, :-1]
    borders[1:] |= down
    borders[:-1] |= down
    borders[:, 1:] |= across
    borders[:, :-1] |= across
    return borders


def _matched(borders: Bools, others: Bools, tolerance: int | None) -> float:
    """The share of `borders` that have one of `others` within the tolerance."""
    if tolerance is None:
        tolerance = boundary_tolerance(*borders.shape)
    if tolerance < 0:
        raise InputError(f"The tolerance must be 0 pixels or more, got {tolerance}.")
    if not borders.any():
        return float("nan")
    near = others
    for _ in range(tolerance):
        wide = np.pad(near, ((1, 1), (0, 0)))
        near = wide[:-2] | wide[1:-1] | wide[2:]
        wide = np.pad(near, ((0, 0), (1, 1)))
        near = wide[:, :-2] | wide[:, 1:-1] | wide[:, 2:]
    return float(near[borders].mean())


def _pairs(counts: NDArray[np.int64]) -> float:
    """How many pairs of pixels lie in the same cell."""
    wide = np.asarray(counts, np.float64)
    return float((wide * (wide - 1) / 2).sum())
