"""The stem, which downsamples images by 4, and the transitions, which downsample by 2 between stages."""

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
    """Return a batch of images, or raise InputError if its shape is wrong. Exported graphs contain no check."""
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
    """Raise InputError if images and weights differ in their dtype. Captured graphs contain no check.

    Under autocast, float32, float16 and bfloat16 are accepted, because autocast converts between them.
    """
    if isinstance(x, torch.fx.Proxy) or is_capturing() or x.dtype == weight.dtype:
        return
    accepted, device = [weight.dtype], x.device.type
    if weight.dtype in AUTOCAST and torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device):
        accepted = AUTOCAST
    if x.dtype not in accepted:
        names = " or ".join(str(dtype) for dtype in accepted)
        raise InputError(f"Images must be {names} because the model's weights are {weight.dtype}; got {x.dtype}.")


class Stem(nn.Module):
    """The stem: images (B, in_chans, H, W) -> (B, C, H / 4, W / 4).

    It converts to channels-last memory, which all following layers keep.

    Args:
        in_chans: number of image channels.
        dim: number of output channels.
        style: "patch" for one 4x4 convolution of stride 4 and a BatchNorm, "conv" for two overlapping 3x3 convolutions
            of stride 2, each with a BatchNorm.
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
        return self.layers(self._to_channels_last(x))

    @torch.jit.unused
    def forward_padded(self, x: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Apply the stem to a padded batch; return the pixels and the mask (B, H, W) for their grid."""
        return convolve(self.layers, self._to_channels_last(x), check_mask(mask, x))

    def _to_channels_last(self, x: Tensor) -> Tensor:
        x = check_image(x, self.in_chans, self.min_size)
        if not torch.jit.is_scripting():
            check_dtype(x, self.layers[0].weight)  # type: ignore[arg-type]
        # exported graphs keep the memory format of their input; torch.export cannot prove the sizes of this conversion
        if not is_exporting():
            # same as contiguous(memory_format=torch.channels_last), with operators that torch.vmap supports
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
    """Return a strided convolution and a BatchNorm: (B, in_dim, H, W) -> (B, dim, H / stride, W / stride).

    With stride 1 the output has the size of the input, and every second pixel equals the output with stride 2. For
    this, the input of a 2x2 kernel is padded at the right and the bottom.

    Args:
        in_dim: number of input channels.
        dim: number of output channels.
        order: "conv_norm" or "norm_conv".
        kernel_size: 2 or 3.
        stride: 1 or 2.
        dilation: dilation of the convolution.
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
