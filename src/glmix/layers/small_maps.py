"""Workaround for NaN in strided bfloat16 convolutions of very small feature maps on a CPU.

On processors with AMX, oneDNN 3.13 (torch 2.15) sometimes returns NaN for a 3x3 convolution of stride 2 in
channels-last memory on a feature map that is two pixels wide (69 of 1,080 repetitions). To reproduce:

    conv = torch.nn.Conv2d(256, 512, 3, stride=2, padding=1).bfloat16().to(memory_format=torch.channels_last)
    x = torch.randn(1, 256, 2, 2).bfloat16().contiguous(memory_format=torch.channels_last)
    with torch.inference_mode():
        assert all(conv(x).isfinite().all() for _ in range(1000))

These functions compute such convolutions in float32. They do not change larger maps, other dtypes and devices,
TorchScript, or exported graphs, which keep the memory format of their input. Up to torch 2.11 they do not change
compiled models either, because `torch.compiler.is_exporting` is also true there.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .capture import is_exporting

__all__ = ["apply_layer", "apply_layers"]

SIDE = 2  # pixels; feature maps with height or width up to this are affected


def is_affected(x: Tensor) -> bool:
    """Return whether x (B, C, H, W) is a very small map whose convolution would be computed in bfloat16 on a CPU."""
    if isinstance(x, torch.fx.Proxy) or is_exporting() or x.device.type != "cpu":
        return False
    narrow = x.dtype == torch.bfloat16
    if torch.is_autocast_enabled("cpu"):
        narrow = torch.get_autocast_dtype("cpu") == torch.bfloat16
    return narrow and (x.shape[2] <= SIDE or x.shape[3] <= SIDE)


def apply_layer(layer: nn.Module, x: Tensor) -> Tensor:
    """Return layer(x); compute strided convolutions of affected maps in float32 and round the result to bfloat16."""
    if not isinstance(layer, nn.Conv2d) or layer.stride == (1, 1) or not is_affected(x):
        result: Tensor = layer(x)
        return result
    bias = None if layer.bias is None else layer.bias.float()
    with torch.autocast("cpu", enabled=False):
        wide = F.conv2d(
            x.float(), layer.weight.float(), bias, layer.stride, layer.padding, layer.dilation, layer.groups
        )
    return wide.bfloat16()


def apply_layers(layers: nn.Module, x: Tensor) -> Tensor:
    """Return layers(x) for a layer or a sequence of layers; use `apply_layer` for each layer of a sequence."""
    if isinstance(layers, nn.Sequential) and is_affected(x):
        for layer in layers:
            x = apply_layer(layer, x)
        return x
    result: Tensor = layers(x)
    return result
