"""Padded batches. A mask (B, H, W), true where the image is, travels beside the pixels (B, C, H, W).

An image in a padded batch gives, on its own pixels, what it gives alone: convolutions see zeros in the padding, as they
do beyond an image's border, and padding has no weight in seeds, clustering and attention. What stands in the padding
in between is of no consequence. Without a mask nothing here is called.

Letters: B images, C channels, an H x W grid of N = H * W pixels, S slots on a G x K grid.
"""

import torch
from timm.layers import register_notrace_function
from torch import Tensor, nn

from ..errors import InputError
from .small_maps import apply_layer

__all__ = ["attention_bias", "cells_of", "check_mask", "convolve", "drop_pixels", "hide", "pool_masked"]


def check_mask(mask: Tensor, x: Tensor) -> Tensor:
    """Pass a mask for the images x (B, C, H, W) on, or say what is wrong with it."""
    expected = (x.shape[0], x.shape[2], x.shape[3])
    if mask.dtype != torch.bool or mask.shape != expected:
        raise InputError(
            f"The mask of images {list(x.shape)} must be boolean of shape {list(expected)}, true where the image is; "
            f"got {mask.dtype} of shape {list(mask.shape)}."
        )
    return mask


def hide(x: Tensor, mask: Tensor | None) -> Tensor:
    """x (B, C, H, W) with zeros in the padding; x itself where there is no mask (B, H, W)."""
    return x if mask is None else x.masked_fill(~mask.unsqueeze(1), 0.0)


def drop_pixels(rows: Tensor, mask: Tensor, value: float = -3e4) -> Tensor:
    """Put `value` for the padding in (B, S, N), by a mask (B, H, W).

    The default is for logits: beside any other it has no weight in a softmax, and as it is finite, also in float16,
    a softmax over nothing but padding stays defined.
    """
    return rows.masked_fill(~mask.flatten(1).unsqueeze(1), value)


def attention_bias(mask: Tensor, dtype: torch.dtype) -> Tensor:
    """What is added to attention logits so that no pixel listens to padding: (B, H, W) -> (B, 1, 1, N)."""
    pixels = mask.shape[1] * mask.shape[2]
    return drop_pixels(torch.zeros(mask.shape[0], 1, pixels, device=mask.device, dtype=dtype), mask).unsqueeze(1)


def convolve(layers: nn.Sequential, x: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """A row of layers that sees zeros in the padding, and the mask on its output's grid.

    An output pixel belongs to the image if the image alone would have it: then the last pixel that its window reaches,
    behind as much padding as the convolution brings itself, lies in the image.
    """
    for layer in layers:
        if isinstance(layer, nn.Conv2d | nn.ZeroPad2d) and x.shape[2:] == mask.shape[1:]:  # not so behind a ZeroPad2d
            x = hide(x, mask)
        x = apply_layer(layer, x)
        if isinstance(layer, nn.Conv2d) and layer.stride != (1, 1):
            down, across = (
                layer.dilation[i] * (layer.kernel_size[i] - 1) - 2 * int(layer.padding[i])  # from first to last pixel
                for i in (0, 1)
            )
            mask = mask[:, down :: layer.stride[0], across :: layer.stride[1]]
    return x, mask


def _windows(present: Tensor, bins: int) -> Tensor:
    """Adaptive-pooling windows over each image's own extent: which lines it has (B, H) -> (B, bins, H), boolean."""
    size = present.shape[1]
    lines = present.long()
    first = lines.argmax(1).view(-1, 1, 1)
    extent = size - lines.flip(1).argmax(1).view(-1, 1, 1) - first
    index = torch.arange(bins, device=present.device).view(1, -1, 1)
    position = torch.arange(size, device=present.device).view(1, 1, -1) - first
    start = (index * extent).div(bins, rounding_mode="floor")
    end = ((index + 1) * extent + bins - 1).div(bins, rounding_mode="floor")
    return (position >= start) & (position < end)


@register_notrace_function
def pool_masked(x: Tensor, mask: Tensor, rows: int, cols: int) -> Tensor:
    """Average each image over a regular grid of its own pixels: (B, C, H, W), (B, H, W) -> (B, S, C)."""
    down = _windows(mask.any(2), rows).to(x.dtype)  # (B, G, H)
    across = _windows(mask.any(1), cols).to(x.dtype)  # (B, K, W)
    sums = across.unsqueeze(1) @ hide(x, mask).permute(0, 2, 3, 1)  # (B, H, K, C)
    sums = (down @ sums.flatten(2)).unflatten(2, (cols, -1))  # (B, G, K, C)
    counts = down @ mask.to(x.dtype) @ across.transpose(1, 2)  # (B, G, K)
    return (sums / counts.clamp_min(1.0).unsqueeze(3)).flatten(1, 2)


@register_notrace_function
def cells_of(mask: Tensor, rows: int, cols: int) -> Tensor:
    """Which pixels lie in which cell of a regular grid over each image: (B, H, W) -> (B, S, N), boolean."""
    down = _windows(mask.any(2), rows)[:, :, None, :, None]
    across = _windows(mask.any(1), cols)[:, None, :, None, :]
    return (down & across & mask[:, None, None]).flatten(3).flatten(1, 2)
