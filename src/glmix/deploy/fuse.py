"""The exact inference form: the same function with fewer operators.

What is linear and stands beside a linear map becomes part of it: BatchNorm, layer scales, the affine part of a
LayerNorm, the identity beside a convolution. What would not be exact stays: a norm in front of zero padding, which its
shift does not reach, and the affine part of a LayerNorm at whose output more than one linear map looks.
"""

import copy
from collections import OrderedDict
from typing import TypeVar

import torch
from timm.layers import LayerScale2d
from torch import Tensor, nn

from ..compat import BatchNorm
from ..errors import InputError
from ..layers import Block, GLMix, GridAttention, ResidualConv2d, Stem, without_identity
from ..models import GLNet
from ..models.stage import Stage

__all__ = ["FusedStage", "fuse"]

ModuleT = TypeVar("ModuleT", bound=nn.Module)
LinearMap = nn.Linear | nn.Conv2d
MEANS = ("avg", "fast", "fastavg")  # timm's names of global pooling that a scale and a shift pass through


class FusedStage(Stage):
    """A stage that can only infer."""

    def train(self, mode: bool = True) -> "FusedStage":
        if mode:
            raise RuntimeError(
                "This model is fused for inference and cannot be trained: its norms and scales are part of the "
                "convolutions beside them. Train the model that it was made from, and fuse that again."
            )
        super().train(mode)
        return self


def fuse(model: ModuleT, *, head: bool = True) -> ModuleT:
    """A copy of `model`, in evaluation mode, that computes the same with fewer operators and cannot be trained.

    Features and slots come out as before, with one exception: where blocks have layer scales, these are part of what
    their slot attention gives. The parameters are others: a fused model's state fits another fused model.

    Args:
        model: a GLNet, or anything that holds one, such as a detector.
        head: make the final norm part of the classifier, where pooling is a mean. `forward_features`,
            `forward_head(..., pre_logits=True)` and `forward_intermediates(..., norm=True)` then give what stands
            before that norm, and a padded batch is to be classified one image at a time. False leaves them as they are.
    """
    fused = copy.deepcopy(model).eval().requires_grad_(False)
    parts = list(fused.modules())
    if not any(isinstance(part, Block) for part in parts):
        captured = any(isinstance(part, torch.fx.GraphModule | torch.jit.ScriptModule) for part in parts)
        raise InputError(
            f"{type(model).__name__} is a graph that was traced, scripted or exported, in which nothing can be fused: "
            "give the model that it was made from."
            if captured
            else f"{type(model).__name__} has no block of a GLNet that could be fused."
        )
    for part in parts:
        if isinstance(part, Block):
            _fuse_block(part)
        elif isinstance(part, Stem):
            part.layers = _without_norms(part.layers)
        elif isinstance(part, Stage):
            if isinstance(part.downsample, nn.Sequential):
                part.downsample = _without_norms(part.downsample)
            part.__class__ = FusedStage  # a new module would lose the hooks and the other references to this one
        elif isinstance(part, GLNet) and head:
            _fuse_head(part)
    return fused.eval()  # the parts that are new


def _fuse_block(block: Block) -> None:
    if isinstance(block.pos_conv, ResidualConv2d):
        block.pos_conv = _fuse_identity(block.pos_conv)
    if isinstance(block.mlp.depthwise, ResidualConv2d):
        block.mlp.depthwise = _fuse_identity(block.mlp.depthwise)
    first, last = _first_map(block.mixer), _last_maps(block.mixer)
    if isinstance(block.ls1, LayerScale2d) and last:
        for layer in last:
            _put_behind(layer, block.ls1.gamma)
        block.ls1 = nn.Identity()
    if isinstance(block.ls2, LayerScale2d):
        _put_behind(block.mlp.fc2, block.ls2.gamma)
        block.ls2 = nn.Identity()
    for norm, reader in ((block.norm1, first), (block.norm2, block.mlp.fc1)):
        if norm.elementwise_affine and reader is not None:
            _put_before(reader, _wide(norm.weight), _wide(norm.bias))
            norm.elementwise_affine, norm.weight, norm.bias = False, None, None


def _fuse_identity(conv: ResidualConv2d) -> nn.Conv2d:
    """Return the depthwise convolution that computes x + conv(x)."""
    rows, cols = conv.kernel_size
    conv.weight[:, :, rows // 2, cols // 2] += 1
    return without_identity(conv)


def _first_map(mixer: GLMix | GridAttention) -> LinearMap | None:
    """The linear map that is all that looks at the normalised pixels. Soft clustering looks at their norms as well."""
    if isinstance(mixer, GridAttention):
        return mixer.attn.qkv
    return mixer.local.pointwise_in if mixer.local is not None and mixer.bridge is None else None


def _last_maps(mixer: GLMix | GridAttention) -> list[LinearMap]:
    """The linear maps of whose outputs a mixer's is the sum; none where slots are dispatched as they were clustered.

    Behind slot attention stands dispatching, a mean over slots, which a scale of channels passes through.
    """
    if isinstance(mixer, GridAttention):
        return [mixer.attn.proj]
    if mixer.bridge is not None and mixer.attn is None:
        return []
    last: list[LinearMap] = [] if mixer.local is None else [mixer.local.pointwise_out]
    return last if mixer.attn is None else [*last, mixer.attn.proj]


def _fuse_head(model: GLNet) -> None:
    classifier = model.get_classifier()
    layers = classifier if isinstance(classifier, tuple) else (classifier,)
    if (
        isinstance(model.norm, BatchNorm)
        and model.head.global_pool.pool_type in MEANS
        and all(isinstance(layer, nn.Linear) for layer in layers)
    ):
        for layer in layers:
            _put_before(layer, *_scale_and_shift(model.norm))
        model.norm = nn.Identity()


def _without_norms(layers: nn.Sequential) -> nn.Sequential:
    """The same layers, with each BatchNorm in the convolution before it, or behind it where that does not pad."""
    kept: OrderedDict[str, nn.Module] = OrderedDict()
    for name, layer in layers.named_children():
        last_name, last = next(reversed(kept.items()), ("", None))
        if isinstance(last, nn.Conv2d) and isinstance(layer, BatchNorm):
            _put_behind(last, *_scale_and_shift(layer))
            continue
        if isinstance(last, BatchNorm) and isinstance(layer, nn.Conv2d) and layer.padding == (0, 0):
            _put_before(layer, *_scale_and_shift(last))
            del kept[last_name]
        kept[name] = layer
    return nn.Sequential(kept)


def _wide(x: Tensor) -> Tensor:
    """Weights are multiplied in float64 and rounded once, on devices that have it."""
    return x.float() if x.device.type == "mps" else x.double()


def _scale_and_shift(norm: BatchNorm) -> tuple[Tensor, Tensor]:
    """What a BatchNorm does to each channel in evaluation mode."""
    assert norm.running_mean is not None
    assert norm.running_var is not None
    scale = _wide(norm.weight) * (_wide(norm.running_var) + norm.eps).rsqrt()
    return scale, norm.bias - norm.running_mean * scale


def _put_before(layer: LinearMap, scale: Tensor, shift: Tensor) -> None:
    """Make layer(x) what layer(scale * x + shift) was, for a layer that pads nothing."""
    assert layer.bias is not None
    weight = _wide(layer.weight)
    layer.bias.copy_(layer.bias + weight.flatten(2).sum(2) @ shift if weight.ndim == 4 else layer.bias + weight @ shift)
    layer.weight.copy_(weight * scale.view(-1, *[1] * (weight.ndim - 2)))


def _put_behind(layer: LinearMap, scale: Tensor, shift: Tensor | float = 0.0) -> None:
    """Make layer(x) what scale * layer(x) + shift was."""
    assert layer.bias is not None
    layer.weight.copy_(_wide(layer.weight) * scale.view(-1, *[1] * (layer.weight.ndim - 1)))
    layer.bias.copy_(_wide(layer.bias) * scale + shift)
