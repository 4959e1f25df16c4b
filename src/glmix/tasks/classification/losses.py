"""Losses of classification: one label, several labels or soft labels per image, label smoothing and class weights.

B  images      K  classes
"""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from timm.loss import BinaryCrossEntropy, LabelSmoothingCrossEntropy, SoftTargetCrossEntropy
from torch import Tensor, nn

from ...errors import InputError, nearest

__all__ = ["ClassWeights", "class_weights", "training_loss"]

ClassWeights = Literal["balanced"] | dict[str, float] | list[float]


class WeightedLoss(nn.Module):
    """Cross-entropy with a weight per class; binary cross-entropy with a weight of the positive labels of each class.

    Args:
        weight: weight of each class (K,). It is not part of the state dict.
        smoothing: label smoothing of the cross-entropy.
        multi_label: use the binary cross-entropy.
    """

    weight: Tensor

    def __init__(self, weight: Tensor, smoothing: float, multi_label: bool) -> None:
        super().__init__()
        self.register_buffer("weight", weight, persistent=False)
        self.smoothing, self.multi_label = smoothing, multi_label

    def forward(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Return the loss of logits (B, K) and targets: classes (B,), or a value per class (B, K)."""
        weight = self.weight.to(logits.dtype)
        if self.multi_label:
            return F.binary_cross_entropy_with_logits(logits, targets.to(logits.dtype), pos_weight=weight)
        return F.cross_entropy(logits, targets, weight, label_smoothing=self.smoothing)


def training_loss(
    *, multi_label: bool, soft_targets: bool, mixed: bool, smoothing: float, weight: Tensor | None
) -> nn.Module:
    """Return the training loss.

    Args:
        multi_label: targets are a 0 or 1 per class.
        soft_targets: targets are probabilities of the classes.
        mixed: targets come from mixup or cutmix, which smooths the labels.
        smoothing: label smoothing.
        weight: weight of each class (K,); None for no weights.
    """
    if weight is not None:
        return WeightedLoss(weight, 0.0 if mixed else smoothing, multi_label)
    if multi_label:
        return BinaryCrossEntropy(smoothing=smoothing)
    if mixed:
        return SoftTargetCrossEntropy()
    if soft_targets or not smoothing:
        return nn.CrossEntropyLoss(label_smoothing=smoothing)
    return LabelSmoothingCrossEntropy(smoothing)


def class_weights(config: ClassWeights, data: Any, num_classes: int, multi_label: bool) -> Tensor:
    """Return the weight of each class (K,) for the training loss.

    Args:
        config: `balanced`, a weight for each class name, or weights in the order of the classes. `balanced` is
            N / (K * n) for a class with n of N images, as in scikit-learn; for several labels per image it is the
            number of images without the class divided by the number with it. A class without images gets 1.
        data: data module with `class_counts` and `class_names`.
        num_classes: number of classes K.
        multi_label: images have several labels.

    Raises:
        InputError: if the weights do not fit the classes, or the data module does not know the numbers of images.
    """
    if config == "balanced":
        counts = getattr(data, "class_counts", None)
        if counts is None:
            raise InputError(
                f"model.class_weights of 'balanced' needs the numbers of images per class, which {type(data).__name__} "
                "does not have: give a list of weights."
            )
        counts = np.asarray(counts)
        images = len(data.splits["train"])
        other = images - counts if multi_label else np.full_like(counts, images / max(1, (counts > 0).sum()))
        weights: list[float] = np.where(counts > 0, np.maximum(other, 1) / np.maximum(counts, 1e-9), 1.0).tolist()
    elif isinstance(config, Mapping):
        weights = _named(config, getattr(data, "class_names", None))
    else:
        assert not isinstance(config, str)
        weights = list(config)
    _check(weights, num_classes)
    return torch.tensor(weights, dtype=torch.float32)


def _named(config: Mapping[str, float], names: Sequence[str] | None) -> list[float]:
    if names is None:
        raise InputError(
            "model.class_weights has names, but the classes of the data have none: give a list of weights."
        )
    for name in config:
        if name not in names:
            raise InputError(
                f"model.class_weights has the class {name!r}, which the data do not.{nearest(name, names)}"
            )
    missing = [name for name in names if name not in config]
    if missing:
        raise InputError(f"model.class_weights has no weight for the class {missing[0]!r}: give one for each class.")
    return [config[name] for name in names]


def _check(weights: Sequence[float], num_classes: int) -> None:
    if len(weights) != num_classes:
        raise InputError(f"model.class_weights has {len(weights)} weights for {num_classes} classes.")
    if not all(0 <= weight < float("inf") for weight in weights) or not any(weights):
        raise InputError(f"model.class_weights must be 0 or more, and not all 0, got {list(weights)}.")
