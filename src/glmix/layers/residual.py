"""A convolution with a residual connection."""

from torch import Tensor, nn

__all__ = ["ResidualConv2d"]


class ResidualConv2d(nn.Conv2d):
    """x + convolution(x). The parameters are those of the convolution.

    The sum equals a single convolution with 1 added to the centre of the kernel; `glmix.fuse` makes this replacement.
    """

    def forward(self, input: Tensor) -> Tensor:
        return input + self._conv_forward(input, self.weight, self.bias)
