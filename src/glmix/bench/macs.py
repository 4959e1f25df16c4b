"""Multiply-accumulates of a forward pass, counted on the operators that really run, by kind."""

import copy
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

__all__ = ["KINDS", "count_by_kind", "count_macs"]

aten = torch.ops.aten

# Linear layers multiply by weights, products multiply activations with each other: logits, clustering, dispatching.
KINDS = ("convolution", "linear", "products", "attention", "softmax", "norms", "pooling")

Shape = torch.Size
Tally = dict[str, int]
Formula = Callable[..., Tally]


def _per_element(kind: str, count: int) -> Formula:
    """A formula for an operator that does `count` multiply-accumulates for each element of its first argument."""

    def formula(shape: Shape, *args: Any, **kwargs: Any) -> Tally:
        return {kind: count * math.prod(shape)}

    return formula


def _linear(x: Shape, weight: Shape, *args: Any, **kwargs: Any) -> Tally:
    """(..., C) by (K, C)."""
    return {"linear": math.prod(x) * weight[0]}


def _attention(query: Shape, key: Shape, value: Shape, *args: Any, **kwargs: Any) -> Tally:
    """(..., N, C), (..., M, C), (..., M, D): two products and the softmax between them, whatever kernel does it."""
    logits = math.prod(query[:-1]) * key[-2]
    return {"attention": logits * (query[-1] + value[-1]), "softmax": 5 * logits}


def _whole_attention(query: Shape, key: Shape, value: Shape, dim: int, heads: int, *args: Any, **kwargs: Any) -> Tally:
    """What `nn.MultiheadAttention` is as one operator: (B, N, C), (B, M, C); four linear layers and attention."""
    batch, pixels, others = query[0], query[1], key[1]
    logits = batch * heads * pixels * others
    return {
        "linear": 2 * batch * (pixels + others) * dim * dim,
        "attention": 2 * logits * (dim // heads),
        "softmax": 5 * logits,
    }


# Convolutions and matrix products are in torch's own table; these stand above it, as what they are made of hides in
# kernels that it knows only in part. Norms and pools are counted as the tool counts them with which models are usually
# published: five a layer-normalised element, two a batch-normalised one, one a pooled one.
_FORMULAS: dict[Any, Formula] = {
    aten.linear: _linear,
    aten.scaled_dot_product_attention: _attention,
    aten._native_multi_head_attention: _whole_attention,
    aten._softmax: _per_element("softmax", 5),  # largest, difference, exponential, sum, quotient
    aten.native_layer_norm: _per_element("norms", 5),
    aten.native_group_norm: _per_element("norms", 5),
    aten.native_batch_norm: _per_element("norms", 2),
    aten._native_batch_norm_legit_no_training: _per_element("norms", 2),
    aten._adaptive_avg_pool2d: _per_element("pooling", 1),
    aten.mean: _per_element("pooling", 1),
}


def count_macs(model: nn.Module, input_size: tuple[int, int, int] = (3, 224, 224)) -> int:
    """Multiply-accumulates for one image, in eval mode, as models are published: softmaxes are not among them."""
    return sum(count for kind, count in count_by_kind(model, input_size).items() if kind != "softmax")


def count_by_kind(
    model: nn.Module, input_size: tuple[int, int, int] = (3, 224, 224), device: str = "meta"
) -> dict[str, int]:
    """{kind: multiply-accumulates} for one image, in eval mode; a softmax does five operations an element.

    On the meta device nothing is allocated or computed. On another one the kernels that it chooses run, and the counts
    are the same: attention is counted where it is called, by its formula.
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
    # without inference mode, attention would be seen only as the kernels that it becomes
    with torch.inference_mode(), FlopCounterMode(display=False, custom_mapping=formulas) as counter:
        model(torch.zeros(1, *input_size, device=device, dtype=dtype))
    for operator, flops in counter.get_flop_counts()["Global"].items():
        counts[_kind(str(operator))] += flops // 2
    return counts


def _kind(operator: str) -> str:
    """What an operator of torch's own table is."""
    if "conv" in operator:
        return "convolution"
    if "attention" in operator:
        return "attention"
    return "products" if "bmm" in operator else "linear"
