"""Stems, which turn an image into a grid of pixels, and transitions, which halve the grid between stages."""

from collections import OrderedDict
from typing import Any, Literal

import torch
from timm.layers import register_notrace_function
from torch import Tensor, nn

from ..errors import InputError
from .capture import is_capturing, is_exporting
from .padding import check_mask, convolve

__all__ = ["Stem", "StemStyle", "TransitionOrder", "check_image", "transition"]

StemStyle = Literal["patch", "conv"]
TransitionOrder = Literal["norm_conv", "conv_norm"]

MIN_SIZE = 32
AUTOCAST = [torch.float32, torch.float16, torch.bfloat16]


@torch.fx.wrap
@register_notrace_function
def check_image(x: Tensor, in_chans: int, min_size: int) -> Tensor:
    """Pass a batch of images on, or say what is wrong with it. Graphs that are being exported carry no checks."""
    if is_exporting():
        return x
    if x.ndim != 4:
        raise InputError(f"Images must have 4 dimensions (batch, channels, height, width), got shape {list(x.shape)}.")
    if x.shape[1] != in_chans:
        raise InputError(f"This model takes images with {in_chans} channels, got {x.shape[1]} in {list(x.shape)}.")
    if x.shape[2] < min_size or x.shape[3] < min_size:
        raise InputError(
            f"Images must be at least {min_size} x {min_size} pixels, got {x.shape[3]} x {x.shape[2]} (width x height)."
        )
    return x


def check_dtype(x: Tensor, weight: Tensor) -> None:
    """Raise if images have another dtype than the weights that take them. Captured graphs carry no such check.

    Autocast converts between float32, float16 and bfloat16, so it accepts these three.
    """
    if isinstance(x, torch.fx.Proxy) or is_capturing() or x.dtype == weight.dtype:
        return
    accepted, device = [weight.dtype], x.device.type
    if weight.dtype in AUTOCAST and torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device):
        accepted = AUTOCAST
    if x.dtype not in accepted:
        names = " or ".join(str(dtype) for dtype in accepted)
        raise InputError(f"Images must be {names}, as the model's weights are {weight.dtype}; got {x.dtype}.")


class Stem(nn.Module):
    """(B, in_chans, H, W) -> (B, C, H / 4, W / 4), in channels-last memory, which every layer behind it keeps.

    `patch` is one 4x4 convolution of stride 4 and a BatchNorm; `conv` two overlapping 3x3 convolutions of stride 2.
    """

    def __init__(
        self, in_chans: int, dim: int, style: StemStyle = "conv", *, device: Any = None, dtype: Any = None
    ) -> None:
        super().__init__()
        dd = {"device": device, "dtype": dtype}
        self.in_chans = in_chans
        self.min_size = MIN_SIZE
        if style == "patch":
            layers = OrderedDict(conv=nn.Conv2d(in_chans, dim, 4, stride=4, **dd), norm=nn.BatchNorm2d(dim, **dd))
        elif style == "conv":
            layers = OrderedDict(
                conv1=nn.Conv2d(in_chans, dim // 2, 3, stride=2, padding=1, **dd),
                norm1=nn.BatchNorm2d(dim // 2, **dd),
                act=nn.GELU(),
                conv2=nn.Conv2d(dim // 2, dim, 3, stride=2, padding=1, **dd),
                norm2=nn.BatchNorm2d(dim, **dd),
            )
        else:
            raise InputError(f"stem must be 'patch' or 'conv', got {style!r}.")
        self.layers = nn.Sequential(layers)

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(self._enter(x))

    @torch.jit.unused
    def forward_padded(self, x: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """The same for a padded batch: pixels, and the mask (B, H, W) on their grid."""
        return convolve(self.layers, self._enter(x), check_mask(mask, x))

    def _enter(self, x: Tensor) -> Tensor:
        x = check_image(x, self.in_chans, self.min_size)
        if not torch.jit.is_scripting():
            check_dtype(x, self.layers[0].weight)  # type: ignore[arg-type]
        if not is_exporting():  # whoever runs an exported graph chooses its memory; torch cannot prove this one's sizes
            # what contiguous(memory_format=torch.channels_last) does, in operators that torch.vmap knows
            x = x.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2)
        return x


def transition(
    in_dim: int,
    dim: int,
    order: TransitionOrder = "conv_norm",
    kernel_size: int = 3,
    stride: int = 2,
    dilation: int = 1,
    *,
    device: Any = None,
    dtype: Any = None,
) -> nn.Sequential:
    """A strided convolution and a BatchNorm, in either order: (B, in_dim, H, W) -> (B, dim, H / stride, W / stride).

    With stride 1 it keeps the grid and computes, on every second pixel, what it would compute with stride 2: the
    even kernel is padded behind, as windows of stride 2 begin on their pixel.
    """
    dd = {"device": device, "dtype": dtype}
    if kernel_size not in (2, 3):
        raise InputError(f"transition_kernel must be 2 or 3, got {kernel_size}.")
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    if kernel_size == 2 and stride == 1:
        layers["pad"] = nn.ZeroPad2d((0, dilation, 0, dilation))
    padding = dilation if kernel_size == 3 else 0
    layers["conv"] = nn.Conv2d(in_dim, dim, kernel_size, stride=stride, padding=padding, dilation=dilation, **dd)
    if order == "norm_conv":
        layers["norm"] = nn.BatchNorm2d(in_dim, **dd)
        layers.move_to_end("norm", last=False)
    elif order == "conv_norm":
        layers["norm"] = nn.BatchNorm2d(dim, **dd)
    else:
        raise InputError(f"transition_order must be 'norm_conv' or 'conv_norm', got {order!r}.")
    return nn.Sequential(layers)
