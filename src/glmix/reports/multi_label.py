"""The numbers of a report on a classifier with several labels per image."""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torchmetrics.functional.classification import binary_average_precision, binary_precision_recall_curve

from .calibration import chunks, probabilities
from .classification import MISTAKES, calibration_of
from .predictions import ClassPredictions

__all__ = ["best_threshold", "several_labels"]

POINTS = 60  # points of a drawn precision-recall curve
CURVES = 12  # classes whose curves are drawn


def several_labels(predictions: ClassPredictions, fit_on: ClassPredictions) -> dict[str, Any]:
    """Return the numbers of a report, as in `report.json`.

    Args:
        predictions: the predictions to describe.
        fit_on: the predictions on which the temperature and the thresholds are fitted.
    """
    rows = [_of_class(predictions, fit_on, k) for k in range(len(predictions.class_names))]
    occurring = [row for row in rows if row["images"]]
    calibration = calibration_of(predictions, fit_on)
    scores = {"mAP": _mean([row["ap"] for row in occurring])}
    for ending, title in (("", "best_threshold"), ("_at_half", "threshold_0.5")):
        right, wrong, missed = (sum(row[name + ending] for row in rows) for name in ("correct", "wrong", "missed"))
        scores[f"mean_f1_{title}"] = _mean([row["f1" + ending] for row in occurring])
        scores[f"micro_f1_{title}"] = 2 * right / max(2 * right + wrong + missed, 1)
    scores["loss"] = calibration["before"]["nll"]
    scores["ece"] = calibration["before"]["ece"]
    hardest = sorted(range(len(rows)), key=lambda k: 2.0 if rows[k]["ap"] is None else rows[k]["ap"])[:CURVES]
    return {
        "scores": scores,
        "classes": rows,
        "curves": [_curve(rows[k], *_scores_of(predictions, k)) for k in hardest if rows[k]["images"]],
        "calibration": calibration,
        "mistakes": _mistakes(predictions),
    }


def _of_class(predictions: ClassPredictions, fit_on: ClassPredictions, k: int) -> dict[str, Any]:
    """Return the scores of class k. AP is None if no image has the class."""
    scores, targets = _scores_of(predictions, k)
    threshold = best_threshold(*_scores_of(fit_on, k))
    occurs = bool(targets.any())
    return {
        "class": predictions.class_names[k],
        "images": int(targets.sum()),
        "ap": float(binary_average_precision(torch.from_numpy(scores), torch.from_numpy(targets))) if occurs else None,
        "threshold": threshold,
        **_counts(scores >= threshold, targets),
        **{f"{name}_at_half": value for name, value in _counts(scores >= 0.5, targets).items()},
    }


def _scores_of(predictions: ClassPredictions, k: int) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Return the probabilities (N,) and the targets (N,) of class k."""
    logits = predictions.logits[:, k].astype(np.float64)
    return probabilities(logits, True), predictions.targets[:, k].astype(np.int64)


def best_threshold(scores: NDArray[np.float64], targets: NDArray[np.int64]) -> float:
    """Return the threshold with the highest F1 if classes with a probability of at least the threshold are predicted.

    It is the midpoint between two neighbouring probabilities, or 0.5 if there is no positive target.

    Args:
        scores: the probabilities of a class (N,).
        targets: whether images have the class, 0 or 1 (N,).
    """
    if not targets.any():
        return 0.5
    precision, recall, thresholds = binary_precision_recall_curve(torch.from_numpy(scores), torch.from_numpy(targets))
    f1 = (2 * precision * recall / (precision + recall).clamp_min(1e-12))[:-1]  # the last point has no threshold
    best = int(f1.argmax())
    below = float(thresholds[best - 1]) if best else 0.0
    middle = (float(thresholds[best]) + below) / 2
    # there is no float between two adjacent floats
    return middle if below < middle else float(thresholds[best])


def _counts(predicted: NDArray[np.bool_], targets: NDArray[np.int64]) -> dict[str, Any]:
    """Return the counts of a class with its precision (None without predictions), recall (None without labels), F1."""
    right = int((predicted & (targets == 1)).sum())
    wrong, missed = int(predicted.sum()) - right, int(targets.sum()) - right
    return {
        "correct": right,
        "wrong": wrong,
        "missed": missed,
        "precision": right / (right + wrong) if right + wrong else None,
        "recall": right / (right + missed) if right + missed else None,
        "f1": 2 * right / (2 * right + wrong + missed) if right + wrong + missed else None,
    }


def _curve(row: dict[str, Any], scores: NDArray[np.float64], targets: NDArray[np.int64]) -> dict[str, Any]:
    """Return the precision-recall curve of a class, with its points [recall, precision] by ascending recall."""
    precision, recall, _ = binary_precision_recall_curve(torch.from_numpy(scores), torch.from_numpy(targets))
    keep = np.unique(np.linspace(0, len(recall) - 1, POINTS).round().astype(int))
    points = [[float(recall[k]), float(precision[k])] for k in reversed(keep)]
    return {**{name: row[name] for name in ("class", "ap", "threshold", "recall", "precision")}, "points": points}


def _mistakes(predictions: ClassPredictions) -> list[dict[str, Any]]:
    """Return the pairs of image and class whose probability is furthest from the label, on the wrong side of 0.5."""
    found: list[tuple[float, int, int]] = []
    for rows, logits, targets in chunks(predictions):
        error = np.abs(probabilities(logits, True) - targets)
        order = np.argsort(-error, axis=None, kind="stable")[:MISTAKES]
        places = zip(*(part.tolist() for part in np.unravel_index(order, error.shape)), strict=True)
        found += [(float(error[k, c]), rows.start + k, c) for k, c in places if error[k, c] > 0.5]
    found.sort(key=lambda item: (-item[0], item[1], item[2]))
    return [
        {
            "sample": k,
            "name": predictions.names[k],
            "class": predictions.class_names[c],
            "has_class": bool(predictions.targets[k, c]),
            "probability": float(probabilities(predictions.logits[k : k + 1, c].astype(np.float64), True)[0]),
            "targets": [predictions.class_names[t] for t in np.flatnonzero(predictions.targets[k])],
        }
        for _, k, c in found[:MISTAKES]
    ]


def _mean(values: list[Any]) -> float:
    return float(np.mean([0.0 if value is None else value for value in values])) if values else 0.0
