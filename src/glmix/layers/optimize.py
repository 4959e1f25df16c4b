"""Faster training on a CPU."""

from typing import TypeVar

import torch
from torch import nn

from ..errors import InputError
from .attention import ShortAttention, is_plain_attention
from .bridge import SoftBridge
from .compact import CompactSoftBridge
from .depthwise import DepthwiseConv2d, is_large_depthwise
from .pointwise import PointwiseConv2d, is_large_pointwise

__all__ = ["optimize_for_training"]

ModuleT = TypeVar("ModuleT", bound=nn.Module)


def optimize_for_training(model: ModuleT) -> ModuleT:
    """Replace layers of a model by faster implementations for training on a CPU, and return the same model.

    Depthwise convolutions with kernels of 5 x 5 and 7 x 7 get a faster backward pass (`DepthwiseConv2d`). In bfloat16,
    timm's attention uses matrix products for few tokens (`ShortAttention`), and so do 1x1 convolutions with many
    weights (`PointwiseConv2d`). The soft clustering of GLNet keeps less memory (`CompactSoftBridge`). Each layer uses
    its faster implementation only where it was measured to be faster, and computes the same function up to rounding.
    Parameters, state dict and hooks do not change. On a GPU and in exported graphs the layers work as before. Under
    torch.compile, the faster depthwise convolutions (with torch 2.12 or newer) and attention are used.

    Args:
        model: any network with layers of torch and timm, in training or evaluation mode.

    Raises:
        InputError: the model is a traced, scripted or exported graph, whose layers cannot be replaced.
    """
    if any(isinstance(part, torch.fx.GraphModule | torch.jit.ScriptModule) for part in model.modules()):
        raise InputError(
            f"{type(model).__name__} is a traced, scripted or exported graph, whose layers cannot be replaced: "
            "optimize the model that it was made from."
        )
    for part in model.modules():
        if is_large_depthwise(part):
            part.__class__ = DepthwiseConv2d
        elif is_plain_attention(part):
            part.__class__ = ShortAttention
        elif is_large_pointwise(part):
            part.__class__ = PointwiseConv2d
        elif type(part) is SoftBridge:
            part.__class__ = CompactSoftBridge
    return model
