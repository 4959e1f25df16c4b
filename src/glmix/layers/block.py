"""One residual block; what mixes its pixels is injected."""

from typing import Any

from timm.layers import DropPath, LayerNorm2d, LayerScale2d
from torch import Tensor, nn

from .mixer import GLMix, GridAttention
from .mlp import ConvMlp
from .padding import hide
from .residual import ResidualConv2d

__all__ = ["Block"]


class Block(nn.Module):
    """x + position(x), then a residual mixer and a residual MLP, each behind a LayerNorm over channels.

    Args:
        mixer: GLMix or GridAttention, called with the normalised pixels and the block's untouched input.
        pos_conv: add a 3x3 depthwise convolution of the input to it, as a position encoding.
        mlp_conv: a depthwise convolution inside the MLP.
        layer_scale: initial value of learned per-channel scales on both branches; None for no such scales.
        drop_path: probability of dropping a branch for a whole sample during training.
    """

    def __init__(
        self,
        dim: int,
        mixer: GLMix | GridAttention,
        *,
        mlp_ratio: float,
        pos_conv: bool = True,
        mlp_conv: bool = True,
        layer_scale: float | None = None,
        drop_path: float = 0.0,
        dilation: int = 1,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__()
        dd = {"device": device, "dtype": dtype}

        def scale() -> nn.Module:
            return nn.Identity() if layer_scale is None else LayerScale2d(dim, layer_scale, **dd)

        def drop() -> nn.Module:
            return DropPath(drop_path) if drop_path > 0 else nn.Identity()

        self.pos_conv: nn.Conv2d | None = (
            ResidualConv2d(dim, dim, 3, padding=dilation, dilation=dilation, groups=dim, **dd) if pos_conv else None
        )
        self.norm1 = LayerNorm2d(dim, eps=1e-6, **dd)
        self.mixer = mixer
        self.ls1 = scale()
        self.drop_path1 = drop()
        self.norm2 = LayerNorm2d(dim, eps=1e-6, **dd)
        self.mlp = ConvMlp(dim, int(dim * mlp_ratio), depthwise=mlp_conv, dilation=dilation, **dd)
        self.ls2 = scale()
        self.drop_path2 = drop()

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """(B, C, H, W) to the same; in a padded batch a mask (B, H, W) says where the image is."""
        seeded = x
        if self.pos_conv is not None:
            x = self.pos_conv(hide(x, mask))
        x = x + self.drop_path1(self.ls1(self.mixer(self.norm1(x), seeded, mask)))
        return x + self.drop_path2(self.ls2(self.mlp(self.norm2(x), mask)))
