"""Multiply-accumulates of a forward pass, counted on the operators that really run."""

import copy
import math
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

__all__ = ["count_macs"]

aten = torch.ops.aten


def _per_element(count: int) -> Any:
    """A formula for an operator that does `count` multiply-accumulates for each element of its first argument."""

    def formula(shape: torch.Size, *args: Any, out_shape: Any = None, **kwargs: Any) -> int:
        return 2 * count * math.prod(shape)

    return formula


# Convolutions and matrix products are in torch's own table. Norms and pools are counted as the tool counts them with
# which models are usually published: five a layer-normalised element, two a batch-normalised one, one a pooled one.
_FORMULAS = {
    aten.native_layer_norm: _per_element(5),
    aten.native_batch_norm: _per_element(2),
    aten._native_batch_norm_legit_no_training: _per_element(2),
    aten._adaptive_avg_pool2d: _per_element(1),
    aten.mean: _per_element(1),
}


def count_macs(model: nn.Module, input_size: tuple[int, int, int] = (3, 224, 224)) -> int:
    """Multiply-accumulates for one image, in eval mode; works on the meta device, so it allocates and computes nothing.

    There, fused attention is made of its matrix products, which are counted; a fused kernel might not be.
    """
    model = copy.deepcopy(model).to("meta").eval()
    with torch.no_grad(), FlopCounterMode(display=False, custom_mapping=_FORMULAS) as counter:
        model(torch.empty(1, *input_size, device="meta"))
    return counter.get_total_flops() // 2
