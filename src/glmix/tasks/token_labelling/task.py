"""Token labelling: classification with an additional dense label per cell of a coarse grid."""

from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...errors import InputError
from ...models import GLNetTokenLabel
from ..classification.task import Classification

__all__ = ["TokenLabelling", "dense_cross_entropy"]


def dense_cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """Return the cross-entropy of logits and soft targets, both (..., K), averaged over all positions.

    Positions whose target is all zeros have a loss of 0.
    """
    return -(targets * logits.float().log_softmax(-1)).sum(-1).mean()


class TokenLabelling(Classification):
    """Lightning module for classification with token labels, for models with a dense auxiliary head.

    A training batch is `(images, targets, dense)`: dense (B, G, G, K) has the share of each class in each cell. The
    loss is cls + dense_weight * dense. The model mixes the images of a batch itself, so other mixing is not supported.

    Args:
        dense_weight: weight of the dense loss.
        cls_target: target of the image-level classifier: `dense`, the mean of the cells, so that the target of a crop
            matches its content; or `label`, the class of the image.
        smoothing: label smoothing, used if cls_target is `label`.
        kwargs: arguments of `Task`.
    """

    has_resizing = False  # the dense labels are for one size

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
                "Token labelling mixes images itself and needs one label per image: set mix to null and multi_label to "
                "false."
            )
        if self.teacher_config is not None:
            raise InputError("Token labelling does not support distillation: set teacher to null.")
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
        # the code around the stages would be recompiled at every step, because the mixing box changes
        return [self.model.stages]

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        if len(batch) != 3:
            raise InputError(f"Token labelling needs batches (images, targets, dense), got {len(batch)} elements.")
        images, targets, dense = batch
        assert isinstance(self.model, GLNetTokenLabel)
        cls, aux, box = self.model.forward_dense(images)
        if aux.shape != dense.shape:
            raise InputError(
                f"The dense labels of a batch have the shape {tuple(dense.shape)}, the predictions of the model "
                f"{tuple(aux.shape)} (images, rows, columns, classes): set the label grid to 1/32 of the image size."
            )
        image_targets = self._image_targets(targets, dense)
        if box is not None:
            top, bottom, left, right = box
            share = (bottom - top) * (right - left) / (aux.shape[1] * aux.shape[2])
            image_targets = (1 - share) * image_targets + share * image_targets.flip(0)
        loss = dense_cross_entropy(cls, image_targets) + self.dense_weight * dense_cross_entropy(aux, dense)
        return self.check_loss(loss)

    def _image_targets(self, targets: Tensor, dense: Tensor) -> Tensor:
        """Return the targets of the image-level classifier (B, K): the label if all dense labels are empty."""
        num_classes = dense.shape[-1]
        one_hot = F.one_hot(targets, num_classes).to(dense.dtype)
        if self.cls_target == "label":
            return one_hot * (1 - self.smoothing) + self.smoothing / num_classes
        mean = dense.mean((1, 2))
        total = mean.sum(1, keepdim=True)
        return torch.where(total > 0, mean / total.clamp_min(1e-6), one_hot)
