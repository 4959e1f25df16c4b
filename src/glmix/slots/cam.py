"""Class activation maps (CAM): the logits of the classifier at each position of the final features."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..compat import uncompiled
from ..errors import InputError
from ..models import GLNet
from .maps import evaluating

__all__ = ["class_activation", "class_evidence"]


def class_evidence(model: nn.Module, features: Tensor) -> Tensor:
    """Apply the classifier at each position of the final features: (B, C, h, w) -> (B, K, h, w).

    The classifier is linear and follows average pooling. The mean of these maps over positions, bias included, is
    therefore the logits.

    Args:
        model: a GLNet, compiled or not.
        features: final features (B, C, h, w).

    Raises:
        InputError: the model is not a GLNet, has no classifier, or does not use average pooling.
    """
    net = uncompiled(model)
    if not isinstance(net, GLNet):
        raise InputError(f"Class activation maps need a GLNet, got a {type(net).__name__}.")
    fc, pool = net.head.fc, net.head.global_pool.pool_type
    if not isinstance(fc, nn.Linear):
        raise InputError(
            "Class activation maps need a linear classifier: this model has num_classes=0 or global_pool=''."
        )
    if pool not in ("avg", "fast", "fastavg"):
        raise InputError(f"Class activation maps need average pooling before the classifier, got {pool!r}.")
    return F.conv2d(features, fc.weight[:, :, None, None], fc.bias)


def class_activation(model: nn.Module, images: Tensor) -> Tensor:
    """Return class activation maps (B, K, h, w) of images (B, C, H, W), without gradient.

    Their mean over positions is the output of `model.head`: the logits, except for a model with a dense auxiliary head,
    which adds its own logits. Inside `recording(model)` the same forward pass also records the slot maps. The model
    keeps its training or evaluation mode.
    """
    net: Any = model
    with torch.no_grad(), evaluating(model):
        return class_evidence(model, net.forward_features(images))
