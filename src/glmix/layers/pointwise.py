"""1x1 convolutions with many weights, computed as matrix products in training on a CPU."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .capture import is_capturing

__all__ = ["PointwiseConv2d", "is_large_pointwise"]

LARGE = 3 << 18  # smallest number of weights; 512 x 1536 is faster, 384 x 1536 takes about the same time


class PointwiseConv2d(nn.Conv2d):
    """A 1x1 convolution that uses matrix products for channels-last maps in bfloat16 on a CPU.

    oneDNN's convolution gives the weights another memory layout, forward and backward, which takes as long as the
    products themselves if there are many weights and few pixels. In captured graphs and everywhere else, this is
    `nn.Conv2d`. It has no parameters or attributes of its own, so a convolution is converted by changing its
    `__class__`.
    """

    def forward(self, input: Tensor) -> Tensor:
        if not torch.jit.is_scripting() and not is_capturing():
            dtype = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else input.dtype
            suitable = input.device.type == "cpu" and input.is_contiguous(memory_format=torch.channels_last)
            if suitable and dtype == torch.bfloat16 and torch.is_grad_enabled():
                return F.linear(input.permute(0, 2, 3, 1), self.weight.flatten(1), self.bias).permute(0, 3, 1, 2)
        # not super().forward(input), which TorchScript does not compile
        return self._conv_forward(input, self.weight, self.bias)


def is_large_pointwise(module: nn.Module) -> bool:
    """Return whether a module is a 1x1 convolution that `PointwiseConv2d` can replace."""
    return (
        type(module) is nn.Conv2d
        and module.kernel_size == module.stride == (1, 1)
        and module.padding in ("same", "valid", (0, 0))
        and module.groups == 1
        and module.weight.numel() >= LARGE
    )
