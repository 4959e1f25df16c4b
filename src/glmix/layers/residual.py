"""A convolution beside the identity."""

from torch import Tensor, nn

__all__ = ["ResidualConv2d"]


class ResidualConv2d(nn.Conv2d):
    """x + convolution(x), with the parameters of the convolution; it keeps the grid and the number of channels.

    The sum is a convolution again, whose kernel has one more in its middle: `glmix.fuse` makes it that.
    """

    def forward(self, input: Tensor) -> Tensor:
        return input + self._conv_forward(input, self.weight, self.bias)
