"""The numbers of a report on a classifier with one label per image."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .calibration import chunks, fit_temperature, probabilities, reliability
from .predictions import ClassPredictions

__all__ = ["MISTAKES", "PAIRS", "calibration_of", "class_scores", "confused_pairs", "single_label"]

MISTAKES = 24  # wrong predictions that a report shows with their pictures
PAIRS = 25  # pairs of classes that a report lists


@dataclass(frozen=True)
class _Outcome:
    """The outcome for each image.

    Args:
        predicted: the predicted class (N,).
        confidence: the probability of the predicted class (N,).
        of_target: the probability of the label (N,).
        rank: the number of classes with a higher probability than the label (N,).
    """

    predicted: NDArray[np.int64]
    confidence: NDArray[np.float64]
    of_target: NDArray[np.float64]
    rank: NDArray[np.int64]


def single_label(predictions: ClassPredictions, fit_on: ClassPredictions) -> dict[str, Any]:
    """Return the numbers of a report, as in `report.json`, and the confusion matrix as an array.

    Args:
        predictions: the predictions to describe.
        fit_on: the predictions on which the temperature is fitted.
    """
    outcome, targets = _outcome(predictions), predictions.targets.astype(np.int64)
    classes = len(predictions.class_names)
    confusion = np.bincount(targets * classes + outcome.predicted, minlength=classes**2).reshape(classes, classes)
    rows = class_scores(confusion, predictions.class_names)
    calibration = calibration_of(predictions, fit_on)
    occurring = [row for row in rows if row["images"]]
    scores = {"top1": float((outcome.predicted == targets).mean())}
    if classes > 5:
        scores["top5"] = float((outcome.rank < 5).mean())
    # means over the classes with labels or predictions, as scikit-learn takes them; the recall needs labels
    found = [row for row in rows if row["images"] or row["predicted"]]
    scores["mean_recall"] = float(np.mean([row["recall"] for row in occurring]))
    scores["mean_precision"] = float(np.mean([row["precision"] or 0.0 for row in found]))
    scores["mean_f1"] = float(np.mean([row["f1"] for row in found]))
    scores["loss"] = calibration["before"]["nll"]
    scores["ece"] = calibration["before"]["ece"]
    return {
        "scores": scores,
        "classes": rows,
        "pairs": confused_pairs(confusion, predictions.class_names),
        "calibration": calibration,
        "mistakes": _mistakes(predictions, outcome),
        "confusion": confusion,
    }


def _outcome(predictions: ClassPredictions) -> _Outcome:
    predicted, rank = (np.zeros(len(predictions), np.int64) for _ in range(2))
    confidence, of_target = (np.zeros(len(predictions)) for _ in range(2))
    for rows, logits, targets in chunks(predictions):
        scores = probabilities(logits, False)
        column = targets.astype(np.int64)[:, None]
        predicted[rows], confidence[rows] = logits.argmax(1), scores.max(1)
        of_target[rows] = np.take_along_axis(scores, column, 1)[:, 0]
        # in a tie, the class with the lower index ranks first, as in argmax
        own = np.take_along_axis(logits, column, 1)
        before = (logits == own) & (np.arange(logits.shape[1]) < column)
        rank[rows] = ((logits > own) | before).sum(1)
    return _Outcome(predicted, confidence, of_target, rank)


def class_scores(confusion: NDArray[Any], class_names: list[str]) -> list[dict[str, Any]]:
    """Return recall, precision and F1 of each class from a confusion matrix (K, K) with ground truth in rows.

    A recall or precision without any image is None. F1 is 0 if the class was never predicted correctly, and None if it
    does not occur at all.
    """
    right, images, predicted = confusion.diagonal(), confusion.sum(1), confusion.sum(0)
    return [
        {
            "class": name,
            "images": int(n),
            "predicted": int(p),
            "correct": int(r),
            "recall": float(r / n) if n else None,
            "precision": float(r / p) if p else None,
            "f1": float(2 * r / (n + p)) if n + p else None,
        }
        for name, r, n, p in zip(class_names, right, images, predicted, strict=True)
    ]


def confused_pairs(confusion: NDArray[Any], class_names: list[str], limit: int = PAIRS) -> list[dict[str, Any]]:
    """Return the pairs of different classes with the highest counts in a confusion matrix (K, K), in that order."""
    wrong = confusion.copy()
    np.fill_diagonal(wrong, 0)
    order = np.argsort(-wrong, axis=None, kind="stable")[:limit]
    totals = confusion.sum(1)
    return [
        {
            "target": class_names[row],
            "predicted": class_names[column],
            "count": int(wrong[row, column]),
            "share": float(wrong[row, column] / totals[row]),
        }
        for row, column in zip(*(part.tolist() for part in np.unravel_index(order, wrong.shape)), strict=True)
        if wrong[row, column]
    ]


def calibration_of(predictions: ClassPredictions, fit_on: ClassPredictions) -> dict[str, Any]:
    """Return the reliability before and after temperature scaling, and the temperature that was fitted on `fit_on`."""
    temperature = fit_temperature(fit_on)
    return {
        "temperature": temperature,
        "before": reliability(predictions).to_json(),
        "after": reliability(predictions, temperature).to_json(),
    }


def _mistakes(predictions: ClassPredictions, outcome: _Outcome) -> list[dict[str, Any]]:
    """Return the wrong predictions with the highest confidence."""
    wrong = np.flatnonzero(outcome.predicted != predictions.targets)
    chosen = wrong[np.argsort(-outcome.confidence[wrong], kind="stable")[:MISTAKES]]
    names = predictions.class_names
    return [
        {
            "sample": int(k),
            "name": predictions.names[k],
            "target": names[predictions.targets[k]],
            "predicted": names[outcome.predicted[k]],
            "confidence": float(outcome.confidence[k]),
            "target_probability": float(outcome.of_target[k]),
        }
        for k in chosen
    ]
