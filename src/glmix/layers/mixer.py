"""Token mixers. Both have one signature, so a block takes either: `mixer(y, x)` with y = norm(x + position).

In a padded batch a mask (B, H, W), true where the image is, comes third.
"""

from typing import Any

import torch
from timm.layers import Attention
from torch import Tensor, nn

from ..errors import InputError
from .bridge import Bridge
from .checkpointing import checkpoint_activations
from .padding import attention_bias, hide
from .slots import cluster, dispatch, pixels_of

__all__ = ["GLMix", "GridAttention", "LocalBranch", "self_attention"]


def self_attention(dim: int, head_dim: int, *, device: Any = None, dtype: Any = None) -> Attention:
    """Multi-head self-attention with heads of `head_dim` channels and biases."""
    if dim % head_dim != 0:
        raise InputError(f"A width of {dim} channels does not divide into attention heads of {head_dim}.")
    return Attention(dim, num_heads=dim // head_dim, qkv_bias=True, device=device, dtype=dtype)


class LocalBranch(nn.Module):
    """Local features on the pixel grid: a depthwise convolution between two pointwise ones, all linear."""

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
        h = hide(self.pointwise_in(y), mask)
        if self.training and not torch.jit.is_scripting():
            return checkpoint_activations(self.project, h)
        return self.project(h)

    def project(self, h: Tensor) -> Tensor:
        return self.pointwise_out(self.depthwise(h))


class GLMix(nn.Module):
    """The paper's mixer: convolutions on the pixel grid plus self-attention over slots, added.

    Args:
        local: the branch on the grid, or None to leave it out.
        bridge: what clusters pixels into slots, or None to leave the slot branch out.
        attn: self-attention over the slots (B, S, C), or None to dispatch them as they were clustered.
    """

    def __init__(self, local: LocalBranch | None, bridge: Bridge | None, attn: Attention | None) -> None:
        super().__init__()
        if local is None and bridge is None:
            raise InputError("A glmix block needs its local branch, its slot branch, or both: got neither.")
        self.local = local
        self.bridge = bridge
        self.attn = attn

    def slot_branch(self, y: Tensor, clustering: Tensor, assignment: Tensor) -> Tensor:
        B, C, H, W = y.shape
        slots = cluster(clustering, pixels_of(y))  # (B, S, C)
        if self.attn is not None:
            slots = self.attn(slots)
        return dispatch(assignment, slots).transpose(1, 2).reshape(B, C, H, W)

    def forward(self, y: Tensor, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Normalised pixels y and the block's input x, from which seeds are pooled: (B, C, H, W) each."""
        if self.bridge is None:
            assert self.local is not None
            return self.local(y, mask)
        clustering, assignment = self.bridge(y, x, mask)
        mixed = self.slot_branch(y, clustering, assignment)
        if self.local is not None:
            mixed = mixed + self.local(y, mask)
        return mixed


class GridAttention(nn.Module):
    """Self-attention over all pixels: what the last stages use, where pixels are few. It needs no seeds."""

    def __init__(self, attn: Attention) -> None:
        super().__init__()
        self.attn = attn

    def forward(self, y: Tensor, x: Tensor, mask: Tensor | None = None) -> Tensor:
        B, C, H, W = y.shape
        bias = None if mask is None else attention_bias(mask, y.dtype)
        return self.attn(pixels_of(y), bias).transpose(1, 2).reshape(B, C, H, W)
