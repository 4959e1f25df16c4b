"""Class evidence at each position, which are class activation maps (CAM), and per slot.

Dimensions: B images, K classes, S slots, N pixels of a block's grid, h x w positions of the final features.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..compat import uncompiled
from ..errors import InputError
from ..models import GLNet
from .maps import evaluating

__all__ = ["class_activation", "class_evidence", "slot_evidence"]


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


def slot_evidence(activation: Tensor, assignment: Tensor, grid: tuple[int, int]) -> Tensor:
    """Distribute a class activation (B, K, h, w) among the slots of a block: (B, K, S).

    The assignment (B, S, N) is averaged to the positions of the activation, where it still sums to one over slots. The
    evidence of all slots therefore sums to the mean of the activation, which is the logit of the class.

    Args:
        activation: class activation (B, K, h, w).
        assignment: softmax over slots (B, S, N).
        grid: height and width of the pixel grid, N in total.

    Raises:
        InputError: the shapes do not match.
    """
    batch, _, pixels = assignment.shape
    if grid[0] * grid[1] != pixels:
        raise InputError(f"An assignment of {pixels} pixels does not match a grid of {grid[1]} x {grid[0]}.")
    if activation.ndim != 4 or activation.shape[0] != batch:
        raise InputError(f"The class activation must be ({batch}, K, h, w), got {tuple(activation.shape)}.")
    height, width = activation.shape[2:]
    positions = F.adaptive_avg_pool2d(assignment.float().unflatten(2, grid), (height, width))  # (B, S, h, w)
    shared: Tensor = activation.float().flatten(2) @ positions.flatten(2).transpose(1, 2)  # (B, K, S)
    return shared / (height * width)
