"""Token mixers. Both have the signature `mixer(y, x, mask)`, so that a block can use either.

y is norm(x + position encoding), x is the input of the block, and mask (B, H, W) is true for the image pixels of a
padded batch.
"""

from typing import Any

import torch
from timm.layers import Attention
from torch import Tensor, nn

from ..errors import InputError
from .bridge import Bridge
from .checkpointing import checkpoint_activations
from .padding import apply_mask, attention_bias
from .slots import cluster, dispatch, pixels_of

__all__ = ["GLMix", "GridAttention", "LocalBranch", "self_attention"]


def self_attention(dim: int, head_dim: int, *, device: Any = None, dtype: Any = None) -> Attention:
    """Return multi-head self-attention with `head_dim` channels per head and with biases."""
    if dim % head_dim != 0:
        raise InputError(f"A width of {dim} channels is not divisible by head_dim={head_dim}.")
    return Attention(dim, num_heads=dim // head_dim, qkv_bias=True, device=device, dtype=dtype)


class LocalBranch(nn.Module):
    """The local branch of GLMix: pointwise, depthwise and pointwise convolution without nonlinearities."""

    def __init__(self, dim: int, kernel_size: int = 5, dilation: int = 1, *, device: Any = None, dtype: Any = None):
        super().__init__()
        if kernel_size < 1 or kernel_size % 2 == 0:
            raise InputError(f"local_kernel must be an odd number, got {kernel_size}.")
        dd = {"device": device, "dtype": dtype}
        padding = dilation * (kernel_size // 2)
        self.pointwise_in = nn.Conv2d(dim, dim, 1, **dd)
        self.depthwise = nn.Conv2d(dim, dim, kernel_size, padding=padding, dilation=dilation, groups=dim, **dd)
        self.pointwise_out = nn.Conv2d(dim, dim, 1, **dd)

    def forward(self, y: Tensor, mask: Tensor | None = None) -> Tensor:
        h = apply_mask(self.pointwise_in(y), mask)
        if self.training and not torch.jit.is_scripting():
            # an adapter in place of the layer may have dropout
            return checkpoint_activations(self.project, h, random=not isinstance(self.pointwise_out, nn.Conv2d))
        return self.project(h)

    def project(self, h: Tensor) -> Tensor:
        """Apply the depthwise and the last pointwise convolution."""
        return self.pointwise_out(self.depthwise(h))


class GLMix(nn.Module):
    """The mixer of the paper: the sum of a convolutional local branch and self-attention over slots.

    Args:
        local: the local branch on the pixel grid; None to omit it.
        bridge: the module that clusters pixels into slots; None to omit the slot branch.
        attn: self-attention over the slots (B, S, C); None to dispatch the clustered slots without attention.
    """

    def __init__(self, local: LocalBranch | None, bridge: Bridge | None, attn: Attention | None) -> None:
        super().__init__()
        if local is None and bridge is None:
            raise InputError("A glmix block needs a local branch, a slot branch, or both; got neither.")
        self.local = local
        self.bridge = bridge
        self.attn = attn

    def slot_branch(self, y: Tensor, clustering: Tensor, assignment: Tensor) -> Tensor:
        """Cluster pixels (B, C, H, W) into slots, apply attention to the slots and dispatch them to the pixels."""
        B, C, H, W = y.shape
        slots = cluster(clustering, pixels_of(y))  # (B, S, C)
        if self.attn is not None:
            slots = self.attn(slots)
        return dispatch(assignment, slots).transpose(1, 2).reshape(B, C, H, W)

    def forward(self, y: Tensor, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Mix the normalised pixels y, with seeds pooled from the block input x; all tensors are (B, C, H, W)."""
        if self.bridge is None:
            assert self.local is not None
            return self.local(y, mask)
        clustering, assignment = self.bridge(y, x, mask)
        mixed = self.slot_branch(y, clustering, assignment)
        if self.local is not None:
            mixed = mixed + self.local(y, mask)
        return mixed


class GridAttention(nn.Module):
    """Self-attention over all pixels, for the last stages with few pixels. It does not use the block input x."""

    def __init__(self, attn: Attention) -> None:
        super().__init__()
        self.attn = attn

    def forward(self, y: Tensor, x: Tensor, mask: Tensor | None = None) -> Tensor:
        B, C, H, W = y.shape
        bias = None if mask is None else attention_bias(mask, y.dtype)
        return self.attn(pixels_of(y), bias).transpose(1, 2).reshape(B, C, H, W)
