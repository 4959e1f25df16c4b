"""The numbers of a report on a detector."""

from collections import Counter
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torchvision.ops import box_iou

from ..tasks.detection.metrics import evaluate_coco, summary_of
from .classification import MISTAKES, confused_pairs
from .predictions import BoxPredictions

__all__ = ["detection"]

OVERLAP = 0.5  # minimum IoU of a detection and its object
CONFIDENT = 0.5  # minimum score of detections in the confusion matrix
BACKGROUND = "background"
CURVES = 12  # classes whose precision-recall curves are drawn


def detection(predictions: BoxPredictions) -> dict[str, Any]:
    """Return the numbers of a report, as in `report.json`, and the confusion matrix as an array.

    The last row of the confusion matrix counts detections where there is no object, the last column missed objects.
    """
    truth = predictions.truth
    kinds = ("box", "mask") if predictions.masks else ("box",)
    evaluators = {kind: evaluate_coco(truth, predictions.results, kind) for kind in kinds}
    scores = {f"{kind}_{k}": v for kind, evaluator in evaluators.items() for k, v in summary_of(evaluator).items()}
    objects = Counter(item["category_id"] for item in truth["annotations"] if not item.get("iscrowd", 0))
    detections = Counter(item["category_id"] for item in predictions.results)
    rows: list[dict[str, Any]] = []
    curves: list[dict[str, Any]] = []
    for index, category in enumerate(_categories(predictions)):
        row: dict[str, Any] = {"class": predictions.class_names[index]}
        row["objects"], row["detections"] = objects[category], detections[category]
        for kind, evaluator in evaluators.items():
            row |= _average_precision(evaluator, kind, category)
        curve = _curve(evaluators["box"], category) if row["objects"] else None
        row["threshold"] = curve["threshold"] if curve else None
        row["f1"] = curve["f1"] if curve else None
        if curve:
            curves.append({"class": row["class"], "ap": row["box_AP50"], **curve})
        rows.append(row)
    confusion, mistakes = _matched(predictions)
    return {
        "scores": scores,
        "matching": {"iou": OVERLAP, "score": CONFIDENT, "background": BACKGROUND},
        "classes": rows,
        "curves": sorted(curves, key=lambda curve: curve["ap"])[:CURVES],
        "pairs": confused_pairs(confusion, [*predictions.class_names, BACKGROUND]),
        "mistakes": mistakes,
        "confusion": confusion,
    }


def _categories(predictions: BoxPredictions) -> list[int]:
    return [category["id"] for category in predictions.truth["categories"]]


def _average_precision(evaluator: Any, kind: str, category: int) -> dict[str, float | None]:
    """Return AP, AP50 and AP75 of a class; None if it has no objects."""
    # precision: (IoU thresholds from 0.5 to 0.95, recalls, classes, sizes, numbers of detections)
    precision = evaluator.eval["precision"][:, :, list(evaluator.params.catIds).index(category), 0, -1]
    parts = {"AP": precision, "AP50": precision[0], "AP75": precision[5]}
    valid = {name: part[part > -1] for name, part in parts.items()}
    return {f"{kind}_{name}": float(part.mean()) if part.size else None for name, part in valid.items()}


def _curve(evaluator: Any, category: int) -> dict[str, Any]:
    """Return the precision-recall curve of a class at IoU 0.5, and the score threshold with the highest F1."""
    place = list(evaluator.params.catIds).index(category)
    precision = evaluator.eval["precision"][0, :, place, 0, -1].clip(0)
    scores, recall = evaluator.eval["scores"][0, :, place, 0, -1], evaluator.params.recThrs
    f1 = 2 * precision * recall / np.maximum(precision + recall, 1e-12)
    best = int(f1.argmax())
    return {
        "threshold": float(scores[best]) if f1[best] else None,
        "f1": float(f1[best]),
        "recall": float(recall[best]),
        "precision": float(precision[best]),
        "points": [[float(r), float(p)] for r, p in zip(recall[::2], precision[::2], strict=True)],
    }


@dataclass(frozen=True)
class _Boxes:
    """Boxes (n, 4) as x1 y1 x2 y2 with their classes (n,), and scores of detections or crowd flags of objects (n,)."""

    boxes: torch.Tensor
    classes: NDArray[np.int64]
    values: NDArray[np.float64]


def _boxes(items: list[dict[str, Any]], label: dict[int, int], value: str) -> _Boxes:
    corners = torch.tensor([item["bbox"] for item in items], dtype=torch.float64).reshape(-1, 4)
    corners[:, 2:] += corners[:, :2]
    classes = np.array([label[item["category_id"]] for item in items], np.int64)
    return _Boxes(corners, classes, np.array([float(item.get(value, 0)) for item in items]))


def _matched(predictions: BoxPredictions) -> tuple[NDArray[np.int64], list[dict[str, Any]]]:
    """Match detections to objects by boxes.

    In each image, detections are matched in the order of descending scores, each with the unmatched object of its class
    that has the highest IoU, or otherwise with one of another class. Detections inside crowds are ignored.

    Returns:
        The confusion matrix (K + 1, K + 1) of the detections with a score of at least `CONFIDENT`, and the wrong
        detections with the highest scores.
    """
    label = {category: k for k, category in enumerate(_categories(predictions))}
    place = {image["id"]: k for k, image in enumerate(predictions.truth["images"])}
    objects: list[list[dict[str, Any]]] = [[] for _ in place]
    detections: list[list[dict[str, Any]]] = [[] for _ in place]
    for items, groups in ((predictions.truth["annotations"], objects), (predictions.results, detections)):
        for item in items:
            groups[place[item["image_id"]]].append(item)
    names = [*predictions.class_names, BACKGROUND]
    confusion = np.zeros((len(names), len(names)), np.int64)
    wanted = np.zeros(len(names) - 1, np.int64)
    mistakes: list[dict[str, Any]] = []
    for sample, name in enumerate(predictions.names):
        found = sorted(detections[sample], key=lambda item: -item["score"])
        truth, boxes = _boxes(objects[sample], label, "iscrowd"), _boxes(found, label, "score")
        for k, target, iou in _assign(truth, boxes):
            predicted, score = int(boxes.classes[k]), float(boxes.values[k])
            if score >= CONFIDENT:
                confusion[target, predicted] += 1
            if target != predicted:
                mistakes.append(
                    {
                        "sample": sample,
                        "name": name,
                        "target": names[target],
                        "predicted": names[predicted],
                        "score": score,
                        "iou": iou,
                        "box": boxes.boxes[k].tolist(),
                        "objects": truth.boxes[truth.values == 0].tolist(),
                    }
                )
        # only the highest scores are shown: keep the list short
        mistakes = sorted(mistakes, key=lambda item: -item["score"])[:MISTAKES]
        wanted += np.bincount(truth.classes[truth.values == 0], minlength=len(wanted))
    confusion[:-1, -1] = wanted - confusion[:-1, :-1].sum(1)
    return confusion, mistakes


def _assign(truth: _Boxes, found: _Boxes) -> list[tuple[int, int, float]]:
    """Return (detection, class of its object or -1 for none, IoU) of each detection that is not inside a crowd.

    Args:
        truth: the objects of an image; their values are 1 for crowds.
        found: the detections of the image, by descending score.
    """
    if not len(found.classes):
        return []
    crowd = truth.values == 1
    iou = box_iou(found.boxes, truth.boxes).numpy()
    areas = ((found.boxes[:, 2] - found.boxes[:, 0]) * (found.boxes[:, 3] - found.boxes[:, 1])).clamp_min(1e-9).numpy()
    free = ~crowd
    result = []
    for k in range(len(found.classes)):
        same = truth.classes == found.classes[k]
        for group in (free & same, free & ~same):
            candidates = np.where(group, iou[k], 0.0)
            if len(candidates) and candidates.max() >= OVERLAP:
                chosen = int(candidates.argmax())
                free[chosen] = False
                result.append((k, int(truth.classes[chosen]), float(candidates[chosen])))
                break
        else:
            inside = _share_inside(found.boxes[k], truth.boxes[crowd], float(areas[k]))
            if inside < OVERLAP:
                result.append((k, -1, float(iou[k].max()) if iou.shape[1] else 0.0))
    return result


def _share_inside(box: torch.Tensor, others: torch.Tensor, area: float) -> float:
    """Return the highest share of a box (4,) that lies inside one of other boxes (n, 4)."""
    if not len(others):
        return 0.0
    sides = (torch.minimum(box[2:], others[:, 2:]) - torch.maximum(box[:2], others[:, :2])).clamp_min(0)
    return float(sides.prod(1).max()) / area
