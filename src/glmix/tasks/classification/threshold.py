"""F1 of several labels per image, and the threshold on the probabilities with the highest macro F1.

N  images      K  classes
"""

from typing import Any

import torch
from torch import Tensor
from torchmetrics.classification import MultilabelPrecisionRecallCurve
from torchmetrics.utilities.data import dim_zero_cat

__all__ = ["F1AtThreshold", "best_threshold", "f1_scores"]


def f1_scores(probabilities: Tensor, targets: Tensor, threshold: float) -> tuple[Tensor, Tensor]:
    """Return macro and micro F1. A label is predicted if its probability is at least the threshold.

    The F1 of a class without labels and predictions is 0, as in scikit-learn.

    Args:
        probabilities: (N, K).
        targets: 0 or 1 (N, K).
        threshold: threshold on the probabilities.
    """
    predicted, present = probabilities >= threshold, targets == 1
    hits = (predicted & present).sum(0).double()
    either = (predicted.sum(0) + present.sum(0)).double()
    macro = (2 * hits / either.clamp_min(1)).mean()
    return macro, 2 * hits.sum() / either.sum().clamp_min(1)


def best_threshold(probabilities: Tensor, targets: Tensor) -> float:
    """Return the threshold with the highest macro F1, the highest one of several; 0.5 if there are no labels.

    All probabilities are candidates. Between the best one and the next lower one, all thresholds give the same
    predictions on these images; the middle is returned.

    Args:
        probabilities: (N, K).
        targets: 0 or 1 (N, K).
    """
    present = targets == 1
    if not present.any():
        return 0.5
    ranked, order = probabilities.double().sort(0, descending=True)
    hits = present.gather(0, order).cumsum(0).double()
    predicted = torch.arange(1, len(ranked) + 1, device=ranked.device, dtype=torch.float64).unsqueeze(1)
    scores = 2 * hits / (predicted + present.sum(0))  # F1 of a class if its first images are predicted
    gains = scores.diff(dim=0, prepend=torch.zeros_like(scores[:1]))
    candidates, order = ranked.flatten().sort(descending=True, stable=True)
    totals = gains.flatten()[order].cumsum(0)
    last = torch.ones_like(candidates, dtype=torch.bool)  # equal probabilities are predicted together
    last[:-1] = candidates[1:] < candidates[:-1]
    # rounding must not decide between thresholds of the same F1
    best = int((totals[last] >= totals[last].max() - 1e-9).nonzero()[0])
    lower = candidates[last][best + 1] if best + 1 < int(last.sum()) else candidates.new_zeros(())
    middle = ((candidates[last][best] + lower) / 2).float()
    return float(middle if middle > lower else candidates[last][best])


class F1AtThreshold(MultilabelPrecisionRecallCurve):
    """Metric with macro F1, micro F1 and the threshold.

    It has the same state as torchmetrics' average precision, so that a collection keeps the predictions once.

    Args:
        num_classes: number of classes K.
        threshold: threshold on the probabilities; None takes the one with the highest macro F1.
    """

    def __init__(self, num_classes: int, threshold: float | None = None) -> None:
        super().__init__(num_classes, validate_args=False)
        self.threshold = threshold

    def compute(self) -> dict[str, Any]:  # type: ignore[override]
        probabilities, targets = dim_zero_cat(self.preds), dim_zero_cat(self.target)
        threshold = self.threshold if self.threshold is not None else best_threshold(probabilities, targets)
        macro, micro = f1_scores(probabilities, targets, threshold)
        return {"f1_macro": macro, "f1_micro": micro, "threshold": torch.tensor(threshold)}
