"""The numbers of a report on a segmentation network."""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ..tasks.segmentation.metrics import scores_of
from .classification import confused_pairs
from .predictions import PixelPredictions

__all__ = ["WORST", "segmentation"]

WORST = 12  # images with the lowest pixel accuracy, which a report shows


def segmentation(predictions: PixelPredictions) -> dict[str, Any]:
    """Return the numbers of a report, as in `report.json`, and the confusion matrix as an array."""
    confusion = predictions.confusion()
    metrics = scores_of(torch.from_numpy(confusion))
    right, pixels, predicted = confusion.diagonal(), confusion.sum(1), confusion.sum(0)
    total = max(int(confusion.sum()), 1)
    rows = [
        {
            "class": name,
            "iou": None if np.isnan(iou) else float(iou),
            "accuracy": float(r / n) if n else None,
            "precision": float(r / p) if p else None,
            "pixels": int(n),
            "share": float(n / total),
            "images": int(images),
        }
        for name, iou, r, n, p, images in zip(
            predictions.class_names, metrics.iou.tolist(), right, pixels, predicted, _images(predictions), strict=True
        )
    ]
    accuracies = [row["accuracy"] for row in rows if row["accuracy"] is not None]
    return {
        "scores": {
            "mIoU": float(metrics.mean_iou),
            "pixel_accuracy": float(metrics.pixel_accuracy),
            "mean_class_accuracy": float(np.mean(accuracies)) if accuracies else 0.0,
            "frequency_weighted_iou": float(sum(row["share"] * (row["iou"] or 0.0) for row in rows)),
        },
        "classes": rows,
        "pairs": confused_pairs(confusion, predictions.class_names),
        "mistakes": _worst(predictions),
        "confusion": confusion,
    }


def _images(predictions: PixelPredictions) -> NDArray[np.int64]:
    """Return the number of images with ground truth of each class (K,)."""
    classes = len(predictions.class_names)
    pairs = np.unique(predictions.image.astype(np.int64) * classes + predictions.target)
    return np.bincount(pairs % classes, minlength=classes)


def _worst(predictions: PixelPredictions) -> list[dict[str, Any]]:
    """Return the images with the lowest pixel accuracy, with the pair of classes that was confused most."""
    count = len(predictions)
    total = np.bincount(predictions.image, predictions.pixels, count)
    wrong = predictions.target != predictions.predicted
    errors = np.bincount(predictions.image[wrong], predictions.pixels[wrong], count)
    accuracy = 1 - errors / np.maximum(total, 1)
    chosen = [k for k in np.argsort(accuracy, kind="stable")[:WORST] if errors[k]]
    names, result = predictions.class_names, []
    for k in chosen:
        entries = np.flatnonzero(wrong & (predictions.image == k))
        most = entries[predictions.pixels[entries].argmax()]
        inside = predictions.image == k
        occurring = np.unique(np.concatenate([predictions.target[inside], predictions.predicted[inside]]))
        result.append(
            {
                "sample": int(k),
                "name": predictions.names[k],
                "accuracy": float(accuracy[k]),
                "target": names[predictions.target[most]],
                "predicted": names[predictions.predicted[most]],
                "share": float(predictions.pixels[most] / total[k]),
                "classes": [names[c] for c in occurring],
            }
        )
    return result
