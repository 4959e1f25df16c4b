"""The residual block of GLNet."""

from typing import Any

from timm.layers import DropPath, LayerNorm2d, LayerScale2d
from torch import Tensor, nn

from .mixer import GLMix, GridAttention
from .mlp import ConvMlp
from .padding import apply_mask
from .residual import ResidualConv2d

__all__ = ["Block"]


class Block(nn.Module):
    """Pre-norm residual block: a position encoding x + conv(x), a token mixer and an MLP.

    Args:
        dim: number of channels.
        mixer: GLMix or GridAttention. It gets the normalised pixels and the unchanged input of the block.
        mlp_ratio: ratio of hidden channels to `dim` in the MLP.
        pos_conv: add a residual 3x3 depthwise convolution at the start of the block as a position encoding.
        mlp_conv: use a depthwise convolution in the MLP.
        layer_scale: initial value of learned per-channel scales on both branches; None to disable them.
        drop_path: probability of dropping a branch per sample during training (stochastic depth).
        dilation: dilation of the depthwise convolutions of the position encoding and the MLP.
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
        """Apply the block.

        Args:
            x: pixels (B, C, H, W).
            mask: for a padded batch: (B, H, W), true for image pixels.

        Returns:
            Pixels (B, C, H, W).
        """
        block_input = x
        if self.pos_conv is not None:
            x = self.pos_conv(apply_mask(x, mask))
        x = x + self.drop_path1(self.ls1(self.mixer(self.norm1(x), block_input, mask)))
        return x + self.drop_path2(self.ls2(self.mlp(self.norm2(x), mask)))
