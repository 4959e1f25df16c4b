"""Token labelling: beside the class of the image, the classes that each cell of a coarse grid shows."""

from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...errors import InputError
from ...models import GLNetTokenLabel
from ..classification.task import Classification

__all__ = ["TokenLabelling", "dense_cross_entropy"]


def dense_cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """Mean over positions of the cross-entropy with soft targets, (..., K) both. Empty targets add nothing."""
    return -(targets * logits.float().log_softmax(-1)).sum(-1).mean()


class TokenLabelling(Classification):
    """Learn classes of images and of their parts, with a model that has a dense auxiliary head.

    Batches to train on are `(images, targets, dense)`, dense (B, G, G, K) with the share of each class in each cell.
    Loss = cls + dense_weight * dense. Images of a batch are mixed inside the model, so there is no other mixing.

    Args:
        dense_weight: weight of the loss on the grid.
        cls_target: what the image as a whole is to be called: `dense`, the mean of its cells, so that a crop is
            called by what it still shows; or `label`, its class.
        smoothing: label smoothing, with cls_target `label`.
        kwargs: arguments of `Task`.
    """

    def __init__(
        self,
        dense_weight: float = 0.5,
        cls_target: Literal["dense", "label"] = "dense",
        smoothing: float = 0.1,
        **kwargs: Any,
    ) -> None:
        super().__init__(smoothing=smoothing, **kwargs)
        if self.mix_config is not None or self.multi_label:
            raise InputError(
                "Token labelling mixes images itself and takes one class an image: no mix, no multi_label."
            )
        self.dense_weight = dense_weight
        self.cls_target = cls_target

    def build(self, num_classes: int) -> nn.Module:
        model = super().build(num_classes)
        if not isinstance(model, GLNetTokenLabel):
            raise InputError(
                f"Token labelling needs a model with a dense head, such as glnet_4g_tklb; {self.model_name} has none."
            )
        return model

    def compile_parts(self) -> list[nn.Module]:
        assert isinstance(self.model, GLNetTokenLabel)
        return [self.model.stages]  # boxes change every step: what stands around the stages is not worth compiling

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        if len(batch) != 3:
            raise InputError(f"Token labelling needs batches (images, targets, dense), got {len(batch)} parts.")
        images, targets, dense = batch
        assert isinstance(self.model, GLNetTokenLabel)
        cls, aux, box = self.model.forward_dense(images)
        if aux.shape != dense.shape:
            raise InputError(
                f"The labels of a batch form a grid {tuple(dense.shape)}, the model's features {tuple(aux.shape)} "
                "(images, rows, columns, classes): choose the label grid as a 32nd of the image size."
            )
        whole = self._whole(targets, dense)
        if box is not None:
            top, bottom, left, right = box
            share = (bottom - top) * (right - left) / (aux.shape[1] * aux.shape[2])
            whole = (1 - share) * whole + share * whole.flip(0)
        loss = dense_cross_entropy(cls, whole) + self.dense_weight * dense_cross_entropy(aux, dense)
        return self.check_loss(loss)

    def _whole(self, targets: Tensor, dense: Tensor) -> Tensor:
        """(B, K): the target of the image as a whole; the class where no cell shows any."""
        classes = dense.shape[-1]
        label = F.one_hot(targets, classes).to(dense.dtype)
        if self.cls_target == "label":
            return label * (1 - self.smoothing) + self.smoothing / classes
        seen = dense.mean((1, 2))
        total = seen.sum(1, keepdim=True)
        return torch.where(total > 0, seen / total.clamp_min(1e-6), label)
