"""Self-attention among few tokens on a CPU."""

from typing import Any

import torch
from timm.layers import Attention
from torch import Tensor, nn

__all__ = ["ShortAttention", "is_plain_attention"]


def is_plain_attention(module: nn.Module) -> bool:
    """Return whether a module is timm's attention without norms, gate and dropout, which `ShortAttention` replaces."""
    if type(module) is not Attention:
        return False
    attention: Any = module
    norms = [getattr(attention, name, nn.Identity()) for name in ("q_norm", "k_norm", "norm")]
    gate, dropout = getattr(attention, "gate", None), float(attention.attn_drop.p)
    return gate is None and dropout == 0 and all(isinstance(norm, nn.Identity) for norm in norms)


class ShortAttention(Attention):  # type: ignore[misc]
    """Self-attention that uses plain matrix products for few tokens in bfloat16 on a CPU.

    Fused attention is optimised for many tokens. In float32 this implementation is not faster. It has no parameters or
    attributes of its own, so a layer is converted by changing its `__class__`.
    """

    FEW = 256  # maximum number of tokens: 1.6 times as fast with 196 tokens, half as fast with 784

    def forward(self, x: Tensor, attn_mask: Tensor | None = None, **options: bool) -> Tensor:
        """Apply attention to tokens (B, N, C); `attn_mask` is added to the logits (B, heads, N, N)."""
        dtype = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else x.dtype
        few = x.device.type == "cpu" and x.shape[1] <= self.FEW and dtype == torch.bfloat16
        if not few or any(options.values()) or (attn_mask is not None and attn_mask.dtype == torch.bool):
            fused: Tensor = super().forward(x, attn_mask, **options)
            return fused
        qkv = self.qkv(x).unflatten(2, (3, self.num_heads, self.head_dim))  # (B, N, 3, heads, D)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        logits = (q * self.scale) @ k.transpose(2, 3)
        weights = (logits if attn_mask is None else logits + attn_mask).softmax(3)
        result: Tensor = self.proj_drop(self.proj((weights @ v).transpose(1, 2).flatten(2)))
        return result
