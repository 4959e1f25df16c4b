"""Cheap layers in front of costly ones: computed again on the way back instead of remembered."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from .capture import is_capturing

__all__ = ["checkpoint_activations"]


def checkpoint_activations(function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """function(x), of whose steps only x is kept for the way back; the last step is not computed again.

    Made for a cheap step whose result is as large as x and a costly one behind it, which needs that result for its
    gradients. Without gradients, and in graphs that are being captured, which choose by themselves, it is function(x).
    """
    if torch.is_grad_enabled() and not is_capturing() and not isinstance(x, torch.fx.Proxy):
        result: Tensor = checkpoint(function, x, use_reentrant=False, preserve_rng_state=False)
        return result
    return function(x)
