"""The convolutional MLP."""

from typing import Any

import torch
from torch import Tensor, nn

from .checkpointing import checkpoint_activations
from .padding import apply_mask
from .residual import ResidualConv2d

__all__ = ["ConvMlp"]


class ConvMlp(nn.Module):
    """MLP of 1x1 convolutions with GELU and an optional residual 3x3 depthwise convolution before the GELU."""

    def __init__(
        self,
        dim: int,
        hidden_dim: int,
        *,
        depthwise: bool = False,
        dilation: int = 1,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__()
        dd = {"device": device, "dtype": dtype}
        self.fc1 = nn.Conv2d(dim, hidden_dim, 1, **dd)
        self.depthwise: nn.Conv2d | None = (
            ResidualConv2d(hidden_dim, hidden_dim, 3, padding=dilation, dilation=dilation, groups=hidden_dim, **dd)
            if depthwise
            else None
        )
        self.act = nn.GELU()
        self.fc2 = nn.Conv2d(hidden_dim, dim, 1, **dd)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        h = self.fc1(x)
        if self.depthwise is not None:
            h = self.depthwise(apply_mask(h, mask))
        if self.training and not torch.jit.is_scripting():
            # an adapter in place of the layer may have dropout
            return checkpoint_activations(self.project, h, random=not isinstance(self.fc2, nn.Conv2d))
        return self.project(h)

    def project(self, h: Tensor) -> Tensor:
        """Apply the GELU and the last layer."""
        return self.fc2(self.act(h))
