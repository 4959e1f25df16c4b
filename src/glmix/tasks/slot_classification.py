"""Classification whose slots have a say too, so that slots learn to keep to one class."""

import math
from typing import Any

import torch
from torch import Tensor

from ..models import GLNet
from ..slots.cam import class_evidence
from ..slots.cut import slot_kernel
from ..slots.maps import recording
from .classification import Classification

__all__ = ["SlotClassification", "slot_logits"]


def slot_logits(scores: Tensor) -> Tensor:
    """Class scores of slots (B, K, S) to those of the image (B, K): between their mean and their highest, smoothly."""
    return torch.logsumexp(scores, 2) - math.log(scores.shape[2])


class SlotClassification(Classification):
    """Learn classes of images from positions and from slots, by one classifier.

    The classifier is applied at each position. Its mean over the image is the model's answer, as ever. Its means over
    the pixels of each slot are class scores of slots, of which the highest decide: one slot with a class is enough to
    say that it is there, and every slot with a class that is not there is wrong. No parameter is added.

    Args:
        slot_weight: of the loss of the slots' answer beside that of the model's.
        kwargs: arguments of `Classification`; `multi_label` is on.
    """

    def __init__(self, slot_weight: float = 0.5, **kwargs: Any) -> None:
        super().__init__(**{"multi_label": True, **kwargs})
        if not slot_weight >= 0:
            raise ValueError(f"slot_weight must be 0 or more, got {slot_weight}.")
        if not self.multi_label:
            raise ValueError(
                "The slots of an image may show several classes: leave multi_label out, or set it to true."
            )
        self.slot_weight = slot_weight

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        images, targets = batch[0], batch[1]
        assert isinstance(self.model, GLNet)
        with recording(self.model) as maps:
            features = self.model.forward_features(images)
        evidence = class_evidence(self.model, features)
        kernel = slot_kernel(maps, (evidence.shape[2], evidence.shape[3]), effective=None)
        by_slots = slot_logits(kernel.to_slots(evidence))
        loss = self.train_loss(self.model.forward_head(features), targets)
        return self.watch(loss + self.slot_weight * self.train_loss(by_slots, targets))
