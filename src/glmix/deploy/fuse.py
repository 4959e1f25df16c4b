"""Exact fusion of a model for inference: the same function with fewer operators.

Linear operations are merged into adjacent linear layers and convolutions: BatchNorm, layer scales, the affine part of
LayerNorm, and residual connections around convolutions. Two kinds of operations are kept because merging them would
not be exact: a norm before a zero-padded convolution, whose shift does not apply to the padding, and the affine part of
a LayerNorm whose output has several consumers.
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
MEANS = ("avg", "fast", "fastavg")  # timm's names of global average pooling, which commutes with scale and shift


class FusedStage(Stage):
    """A stage that supports only inference."""

    def train(self, mode: bool = True) -> "FusedStage":
        if mode:
            raise RuntimeError(
                "This model is fused for inference and cannot be trained, because its norms and scales are merged into "
                "adjacent layers. Train the original model and fuse it again."
            )
        super().train(mode)
        return self


def fuse(model: ModuleT, *, head: bool = True) -> ModuleT:
    """Return a fused copy of a model for inference: the same function with fewer operators, in evaluation mode.

    The copy cannot be trained. Its features and slots are the same as before, except that in blocks with layer scales
    the output of the slot attention includes the scale. Its parameters differ: its state dict fits only other fused
    models.

    Args:
        model: a GLNet, or a module that contains one, such as a detector.
        head: merge the final norm into the classifier if global pooling is an average. Then `forward_features`,
            `forward_head(..., pre_logits=True)` and `forward_intermediates(..., norm=True)` return features without
            the final norm, and the images of a padded batch must be classified one at a time.

    Raises:
        InputError: the model contains no GLNet block, for example because it is traced, scripted or exported.
    """
    fused = copy.deepcopy(model).eval().requires_grad_(False)
    parts = list(fused.modules())
    if not any(isinstance(part, Block) for part in parts):
        captured = any(isinstance(part, torch.fx.GraphModule | torch.jit.ScriptModule) for part in parts)
        raise InputError(
            f"{type(model).__name__} is a traced, scripted or exported graph, which cannot be fused: use the original "
            "model."
            if captured
            else f"{type(model).__name__} contains no GLNet block to fuse."
        )
    for part in parts:
        if isinstance(part, Block):
            _fuse_block(part)
        elif isinstance(part, Stem):
            part.layers = _without_norms(part.layers)
        elif isinstance(part, Stage):
            if isinstance(part.downsample, nn.Sequential):
                part.downsample = _without_norms(part.downsample)
            part.__class__ = FusedStage  # instead of a new module, to keep hooks and references
        elif isinstance(part, GLNet) and head:
            _fuse_head(part)
    return fused.eval()  # for the new modules


def _fuse_block(block: Block) -> None:
    if isinstance(block.pos_conv, ResidualConv2d):
        block.pos_conv = _fuse_identity(block.pos_conv)
    if isinstance(block.mlp.depthwise, ResidualConv2d):
        block.mlp.depthwise = _fuse_identity(block.mlp.depthwise)
    first, last = _first_map(block.mixer), _last_maps(block.mixer)
    if isinstance(block.ls1, LayerScale2d) and last:
        for projection in last:
            _merge_after(projection, block.ls1.gamma)
        block.ls1 = nn.Identity()
    if isinstance(block.ls2, LayerScale2d):
        _merge_after(block.mlp.fc2, block.ls2.gamma)
        block.ls2 = nn.Identity()
    for norm, layer in ((block.norm1, first), (block.norm2, block.mlp.fc1)):
        if norm.elementwise_affine and layer is not None:
            _merge_before(layer, _double(norm.weight), _double(norm.bias))
            norm.elementwise_affine, norm.weight, norm.bias = False, None, None


def _fuse_identity(conv: ResidualConv2d) -> nn.Conv2d:
    """Return the depthwise convolution that computes x + conv(x)."""
    rows, cols = conv.kernel_size
    conv.weight[:, :, rows // 2, cols // 2] += 1
    return without_identity(conv)


def _first_map(mixer: GLMix | GridAttention) -> LinearMap | None:
    """Return the only linear layer that uses the normalised pixels; None with slots, which use the pixels as well."""
    if isinstance(mixer, GridAttention):
        return mixer.attn.qkv
    return mixer.local.pointwise_in if mixer.local is not None and mixer.bridge is None else None


def _last_maps(mixer: GLMix | GridAttention) -> list[LinearMap]:
    """Return the linear layers whose sum is the output of a mixer; an empty list for slots without attention.

    Dispatching, which follows the slot attention, is a weighted mean over slots and commutes with channel scales.
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
            _merge_before(layer, *_scale_and_shift(model.norm))
        model.norm = nn.Identity()


def _without_norms(layers: nn.Sequential) -> nn.Sequential:
    """Merge each BatchNorm into the convolution before it, or into the one after it if that has no padding."""
    kept: OrderedDict[str, nn.Module] = OrderedDict()
    for name, layer in layers.named_children():
        last_name, last = next(reversed(kept.items()), ("", None))
        if isinstance(last, nn.Conv2d) and isinstance(layer, BatchNorm):
            _merge_after(last, *_scale_and_shift(layer))
            continue
        if isinstance(last, BatchNorm) and isinstance(layer, nn.Conv2d) and layer.padding == (0, 0):
            _merge_before(layer, *_scale_and_shift(last))
            del kept[last_name]
        kept[name] = layer
    return nn.Sequential(kept)


def _double(x: Tensor) -> Tensor:
    """Convert to float64 (float32 on MPS), so that products of weights are rounded once."""
    return x.float() if x.device.type == "mps" else x.double()


def _scale_and_shift(norm: BatchNorm) -> tuple[Tensor, Tensor]:
    """Return the scale and shift of each channel by a BatchNorm in evaluation mode."""
    assert norm.running_mean is not None
    assert norm.running_var is not None
    scale = _double(norm.weight) * (_double(norm.running_var) + norm.eps).rsqrt()
    return scale, norm.bias - norm.running_mean * scale


def _merge_before(layer: LinearMap, scale: Tensor, shift: Tensor) -> None:
    """Change a layer without padding such that layer(x) equals the previous layer(scale * x + shift)."""
    assert layer.bias is not None
    weight = _double(layer.weight)
    layer.bias.copy_(layer.bias + weight.flatten(2).sum(2) @ shift if weight.ndim == 4 else layer.bias + weight @ shift)
    layer.weight.copy_(weight * scale.view(-1, *[1] * (weight.ndim - 2)))


def _merge_after(layer: LinearMap, scale: Tensor, shift: Tensor | float = 0.0) -> None:
    """Change a layer such that layer(x) equals the previous scale * layer(x) + shift."""
    assert layer.bias is not None
    layer.weight.copy_(_double(layer.weight) * scale.view(-1, *[1] * (layer.weight.ndim - 1)))
    layer.bias.copy_(_double(layer.bias) * scale + shift)
