"""Activation checkpointing of cheap layers, which saves memory in training at little cost."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from .capture import is_capturing

__all__ = ["checkpoint_activations"]


def checkpoint_activations(function: Callable[[Tensor], Tensor], x: Tensor, random: bool = False) -> Tensor:
    """Return function(x); keep only x for the backward pass and recompute intermediate results there.

    The intended use is a cheap operation followed by an expensive one that needs the result of the cheap operation for
    its gradients. The last operation of the function is not recomputed. Without gradients this is a plain call. The
    same holds during graph capture, where the compiler chooses what to recompute.

    Args:
        function: operation without random numbers, or with `random` any operation.
        x: its input.
        random: whether the operation draws random numbers, whose generators must then be restored to recompute it.
    """
    if torch.is_grad_enabled() and not is_capturing() and not isinstance(x, torch.fx.Proxy):
        result: Tensor = checkpoint(function, x, use_reentrant=False, preserve_rng_state=random)
        return result
    return function(x)
