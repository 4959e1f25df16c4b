"""Padded batches: a mask (B, H, W), true for image pixels, accompanies the pixels (B, C, H, W).

The results for the pixels of an image are the same as without padding: convolutions see zeros in the padding, as they
do outside of an image, and padding pixels have no weight in seeds, clustering and attention. Intermediate values in the
padding have no effect. Without a mask these functions are not called.

Shapes: B images, C channels, an H x W grid of N = H * W pixels, S slots on a G x K grid.
"""

import torch
from timm.layers import register_notrace_function
from torch import Tensor, nn

from ..errors import InputError
from .small_maps import apply_layer

__all__ = ["apply_mask", "attention_bias", "cells_of", "check_mask", "convolve", "fill_padding", "pool_masked"]


def check_mask(mask: Tensor, x: Tensor) -> Tensor:
    """Return the mask of images x (B, C, H, W), or raise InputError if its dtype or shape is wrong."""
    expected = (x.shape[0], x.shape[2], x.shape[3])
    if mask.dtype != torch.bool or mask.shape != expected:
        raise InputError(
            f"The mask of images {list(x.shape)} must be boolean of shape {list(expected)}, true for image pixels; "
            f"got {mask.dtype} of shape {list(mask.shape)}."
        )
    return mask


def apply_mask(x: Tensor, mask: Tensor | None) -> Tensor:
    """Return x (B, C, H, W) with zeros in the padding; without a mask (B, H, W) return x."""
    # torch.where keeps the memory format; masked_fill returns NCHW
    return x if mask is None else torch.where(mask.unsqueeze(1), x, x.new_zeros(1))


def fill_padding(rows: Tensor, mask: Tensor, value: float = -3e4) -> Tensor:
    """Set the padding pixels of rows (B, S, N) to `value`, given a mask (B, H, W) that is true for image pixels.

    The default value gives logits no weight in a softmax. It is finite in float16 too, so that a softmax over
    padding only does not give NaN.
    """
    return rows.masked_fill(~mask.flatten(1).unsqueeze(1), value)


def attention_bias(mask: Tensor, dtype: torch.dtype) -> Tensor:
    """Return the bias for attention logits that excludes padding pixels: (B, H, W) -> (B, 1, 1, N)."""
    pixels = mask.shape[1] * mask.shape[2]
    return fill_padding(torch.zeros(mask.shape[0], 1, pixels, device=mask.device, dtype=dtype), mask).unsqueeze(1)


def convolve(layers: nn.Sequential, x: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Apply layers to a padded batch.

    The padding is set to zero before each convolution. An output pixel belongs to the image if the convolution of the
    image alone has this pixel. This is the case if the last input pixel of its window, minus the padding of the
    convolution, lies in the image.

    Args:
        layers: a sequence with convolutions.
        x: pixels (B, C, H, W).
        mask: (B, H, W), true for image pixels.

    Returns:
        The output, and the mask for its grid.
    """
    for layer in layers:
        if (
            isinstance(layer, nn.Conv2d | nn.ZeroPad2d) and x.shape[2:] == mask.shape[1:]
        ):  # sizes differ after a ZeroPad2d
            x = apply_mask(x, mask)
        x = apply_layer(layer, x)
        if isinstance(layer, nn.Conv2d) and layer.stride != (1, 1):
            down, across = (
                layer.dilation[i] * (layer.kernel_size[i] - 1) - 2 * int(layer.padding[i])  # from first to last pixel
                for i in (0, 1)
            )
            mask = mask[:, down :: layer.stride[0], across :: layer.stride[1]]
    return x, mask


def _windows(present: Tensor, bins: int) -> Tensor:
    """Return adaptive-pooling windows over the extent of each image.

    Args:
        present: (B, H), true for the rows (or columns) that contain image pixels.
        bins: number of windows.

    Returns:
        (B, bins, H), true for the rows (or columns) in each window.
    """
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
    """Pool the pixels of each image to a regular grid: (B, C, H, W), (B, H, W) -> (B, S, C)."""
    down = _windows(mask.any(2), rows).to(x.dtype)  # (B, G, H)
    across = _windows(mask.any(1), cols).to(x.dtype)  # (B, K, W)
    sums = across.unsqueeze(1) @ apply_mask(x, mask).permute(0, 2, 3, 1)  # (B, H, K, C)
    sums = (down @ sums.flatten(2)).unflatten(2, (cols, -1))  # (B, G, K, C)
    counts = down @ mask.to(x.dtype) @ across.transpose(1, 2)  # (B, G, K)
    return (sums / counts.clamp_min(1.0).unsqueeze(3)).flatten(1, 2)


@register_notrace_function
def cells_of(mask: Tensor, rows: int, cols: int) -> Tensor:
    """Return which pixels lie in each cell of a regular grid over each image: (B, H, W) -> (B, S, N), boolean."""
    down = _windows(mask.any(2), rows)[:, :, None, :, None]
    across = _windows(mask.any(1), cols)[:, None, :, None, :]
    return (down & across & mask[:, None, None]).flatten(3).flatten(1, 2)
