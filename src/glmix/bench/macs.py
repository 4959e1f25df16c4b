"""Multiply-accumulates (MACs) of a forward pass, counted by kind for the executed operators."""

import copy
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

__all__ = ["KINDS", "count_by_kind", "count_macs"]

aten = torch.ops.aten

# "linear" are products with weights. "products" are products of activations: logits, clustering, dispatching.
KINDS = ("convolution", "linear", "products", "attention", "softmax", "norms", "pooling")

Shape = torch.Size
Tally = dict[str, int]
Formula = Callable[..., Tally]


def _per_element(kind: str, count: int) -> Formula:
    """Return a formula for an operator with `count` multiply-accumulates per element of its first argument."""

    def formula(shape: Shape, *args: Any, **kwargs: Any) -> Tally:
        return {kind: count * math.prod(shape)}

    return formula


def _linear(x: Shape, weight: Shape, *args: Any, **kwargs: Any) -> Tally:
    """Count a product of (..., C) with a weight (K, C)."""
    return {"linear": math.prod(x) * weight[0]}


def _attention(query: Shape, key: Shape, value: Shape, *args: Any, **kwargs: Any) -> Tally:
    """Count attention of (..., N, C), (..., M, C), (..., M, D): two products and a softmax, for any kernel."""
    logits = math.prod(query[:-1]) * key[-2]
    return {"attention": logits * (query[-1] + value[-1]), "softmax": 5 * logits}


def _whole_attention(query: Shape, key: Shape, value: Shape, dim: int, heads: int, *args: Any, **kwargs: Any) -> Tally:
    """Count `nn.MultiheadAttention` as one operator for (B, N, C), (B, M, C): four linear layers and attention."""
    batch, pixels, others = query[0], query[1], key[1]
    logits = batch * heads * pixels * others
    return {
        "linear": 2 * batch * (pixels + others) * dim * dim,
        "attention": 2 * logits * (dim // heads),
        "softmax": 5 * logits,
    }


# Convolutions and matrix products are in torch's table of formulas. The operators below are counted here because torch
# does not know all kernels that implement them. Norms and pooling are counted as by the tool that most publications
# use: five per element for layer norm, two for batch norm and one for pooling.
_FORMULAS: dict[Any, Formula] = {
    aten.linear: _linear,
    aten.scaled_dot_product_attention: _attention,
    aten._native_multi_head_attention: _whole_attention,
    aten._softmax: _per_element("softmax", 5),  # five operations: maximum, difference, exponential, sum, quotient
    aten.native_layer_norm: _per_element("norms", 5),
    aten.native_group_norm: _per_element("norms", 5),
    aten.native_batch_norm: _per_element("norms", 2),
    aten._native_batch_norm_legit_no_training: _per_element("norms", 2),
    aten._adaptive_avg_pool2d: _per_element("pooling", 1),
    aten.mean: _per_element("pooling", 1),
}


def count_macs(model: nn.Module, input_size: tuple[int, int, int] = (3, 224, 224)) -> int:
    """Count the multiply-accumulates for one image in evaluation mode, without softmaxes, as in publications.

    Args:
        model: the model.
        input_size: channels, height and width.
    """
    return sum(count for kind, count in count_by_kind(model, input_size).items() if kind != "softmax")


def count_by_kind(
    model: nn.Module, input_size: tuple[int, int, int] = (3, 224, 224), device: str = "meta"
) -> dict[str, int]:
    """Count the multiply-accumulates for one image in evaluation mode by kind.

    The counts do not depend on the device, because attention is counted by a formula at its call. A softmax counts as
    five operations per element.

    Args:
        model: the model.
        input_size: channels, height and width.
        device: the device for the forward pass. On the meta device nothing is allocated or computed.

    Returns:
        {kind: multiply-accumulates}
    """
    model = copy.deepcopy(model).to(device).eval()
    dtype = next((p.dtype for p in model.parameters()), torch.float32)
    counts = dict.fromkeys(KINDS, 0)

    def counted(formula: Formula) -> Callable[..., int]:
        def count(*shapes: Any, out_shape: Any = None, **kwargs: Any) -> int:
            for kind, number in formula(*shapes, **kwargs).items():
                counts[kind] += number
            return 0

        return count

    formulas = {operator: counted(formula) for operator, formula in _FORMULAS.items()}
    # torch 2.9 looks an operator up by its overload, and by its name only after it has been decomposed
    formulas |= {operator.default: formula for operator, formula in formulas.items()}
    # outside of inference mode, the counter gets only the kernels that implement attention
    with torch.inference_mode(), FlopCounterMode(display=False, custom_mapping=formulas) as counter:
        model(torch.zeros(1, *input_size, device=device, dtype=dtype))
    for operator, flops in counter.get_flop_counts()["Global"].items():
        counts[_kind(str(operator))] += flops // 2
    return counts


def _kind(operator: str) -> str:
    """Return the kind of an operator in torch's table of formulas."""
    if "conv" in operator:
        return "convolution"
    if "attention" in operator:
        return "attention"
    return "products" if "bmm" in operator else "linear"
