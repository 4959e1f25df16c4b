"""Calibration of a classifier: reliability by confidence, expected calibration error, temperature scaling."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .predictions import ClassPredictions

__all__ = ["Reliability", "chunks", "fit_temperature", "probabilities", "reliability"]

BINS = 15
ROWS = 4096  # images whose probabilities are in memory at once
LOWEST, HIGHEST = 1e-3, 1e3  # limits of the inverse temperature

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Reliability:
    """Confidence and accuracy in bins of equal width from 0 to 1, and the scores that follow from them.

    With one label per image, the confidence is the highest probability of an image, and the accuracy is the share of
    images whose label is that class. With several labels, every class of every image counts: the confidence is its
    probability, and the accuracy is the share of images that have the class.

    Args:
        counts: predictions per bin (BINS,).
        confidence: mean confidence per bin (BINS,), 0 in empty bins.
        accuracy: accuracy per bin (BINS,), 0 in empty bins.
        ece: expected calibration error, the mean distance of confidence and accuracy weighted by `counts`.
        nll: mean negative log-likelihood of the labels.
    """

    counts: NDArray[np.int64]
    confidence: Floats
    accuracy: Floats
    ece: float
    nll: float

    def to_json(self) -> dict[str, Any]:
        """Return the values as lists and numbers."""
        return {
            "ece": self.ece,
            "nll": self.nll,
            "bins": [
                {"from": k / BINS, "to": (k + 1) / BINS, "count": int(n), "confidence": float(c), "accuracy": float(a)}
                for k, (n, c, a) in enumerate(zip(self.counts, self.confidence, self.accuracy, strict=True))
            ],
        }


def chunks(predictions: ClassPredictions) -> Iterator[tuple[slice, Floats, NDArray[Any]]]:
    """Yield the rows, the logits (n, K) in float64 and the targets of some thousand images at a time."""
    for first in range(0, len(predictions), ROWS):
        rows = slice(first, first + ROWS)
        yield rows, predictions.logits[rows].astype(np.float64), predictions.targets[rows]


def probabilities(logits: Floats, multi_label: bool) -> Floats:
    """Return the softmax of logits (n, K), or their sigmoid if an image may have several labels."""
    if multi_label:
        return np.exp(-np.logaddexp(0, -logits))
    shifted = np.exp(logits - logits.max(1, keepdims=True))
    return shifted / shifted.sum(1, keepdims=True)


def reliability(predictions: ClassPredictions, temperature: float = 1.0) -> Reliability:
    """Return the reliability of predictions whose logits are divided by a temperature."""
    counts, confidence, correct = (np.zeros(BINS) for _ in range(3))
    nll, labels = 0.0, 0
    for _, logits, targets in chunks(predictions):
        scaled = logits / temperature
        scores = probabilities(scaled, predictions.multi_label)
        if predictions.multi_label:
            sure, right = scores.ravel(), targets.ravel().astype(np.float64)
            nll += float(np.logaddexp(0, np.where(targets == 1, -scaled, scaled)).sum())
        else:
            sure, right = scores.max(1), (logits.argmax(1) == targets).astype(np.float64)
            nll += float((_log_sum_exp(scaled) - np.take_along_axis(scaled, targets[:, None], 1)[:, 0]).sum())
        labels += len(sure)
        bins = np.minimum((sure * BINS).astype(np.int64), BINS - 1)
        counts += np.bincount(bins, minlength=BINS)
        confidence += np.bincount(bins, sure, BINS)
        correct += np.bincount(bins, right, BINS)
    filled = np.maximum(counts, 1)
    return Reliability(
        counts=counts.astype(np.int64),
        confidence=confidence / filled,
        accuracy=correct / filled,
        ece=float(np.abs(confidence - correct).sum() / labels),
        nll=nll / labels,
    )


def fit_temperature(predictions: ClassPredictions) -> float:
    """Return the temperature that minimises the negative log-likelihood of the labels, from 0.001 to 1000.

    The likelihood is convex in the inverse temperature, so Newton steps inside a shrinking interval find the minimum.
    """
    slopes = _binary_slopes if predictions.multi_label else _slopes
    low, high, inverse = LOWEST, HIGHEST, 1.0
    for _ in range(100):
        slope, curvature = _total(slopes, predictions, inverse)
        if slope > 0:
            high = inverse
        else:
            low = inverse
        newton = inverse - slope / curvature if curvature > 0 else low
        following = newton if low < newton < high else (low * high) ** 0.5
        if abs(following - inverse) < 1e-6 * inverse:
            break
        inverse = following
    return 1 / inverse


Slopes = Callable[[Floats, NDArray[Any], float], tuple[float, float]]


def _total(slopes: Slopes, predictions: ClassPredictions, inverse: float) -> tuple[float, float]:
    """Return the first and second derivative of the negative log-likelihood by the inverse temperature."""
    parts = [slopes(logits, targets, inverse) for _, logits, targets in chunks(predictions)]
    return sum(first for first, _ in parts), sum(second for _, second in parts)


def _slopes(logits: Floats, targets: NDArray[Any], inverse: float) -> tuple[float, float]:
    scores = probabilities(logits * inverse, False)
    mean = (scores * logits).sum(1)
    first = mean - np.take_along_axis(logits, targets[:, None], 1)[:, 0]
    return float(first.sum()), float(((scores * logits**2).sum(1) - mean**2).sum())


def _binary_slopes(logits: Floats, targets: NDArray[Any], inverse: float) -> tuple[float, float]:
    scores = probabilities(logits * inverse, True)
    return float(((scores - targets) * logits).sum()), float((scores * (1 - scores) * logits**2).sum())


def _log_sum_exp(logits: Floats) -> Floats:
    highest = logits.max(1)
    total: Floats = highest + np.log(np.exp(logits - highest[:, None]).sum(1))
    return total
