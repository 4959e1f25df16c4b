"""Class activation maps: what the classifier would say of each position by itself."""

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
    """The classifier at each position of final features: (B, C, h, w) -> (B, K, h, w).

    The classifier is linear and takes the mean over positions, so the mean of these maps, bias included, is its logits.

    Args:
        model: a GLNet, compiled or not.
    """
    net = uncompiled(model)
    if not isinstance(net, GLNet):
        raise InputError(f"Class activation is a GLNet's; this model is a {type(net).__name__}.")
    fc, pool = net.head.fc, net.head.global_pool.pool_type
    if not isinstance(fc, nn.Linear):
        raise InputError("The model has no classifier (num_classes is 0), and class activation is what one says.")
    if pool not in ("avg", "fast", "fastavg"):
        raise InputError(f"Class activation needs a classifier behind average pooling; this model pools by {pool!r}.")
    return F.conv2d(features, fc.weight[:, :, None, None], fc.bias)


def class_activation(model: nn.Module, images: Tensor) -> Tensor:
    """Class activation maps (B, K, h, w) of images (B, C, H, W), without a gradient; the model stays as it was.

    Their mean over positions is what `model.head` answers: the logits, except for a model with a dense auxiliary head,
    which adds its own share. Inside `recording(model)` the same pass fills the list of slot maps.
    """
    net: Any = model
    with torch.no_grad(), evaluating(model):
        return class_evidence(model, net.forward_features(images))
