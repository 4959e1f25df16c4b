"""A convolution beside the identity."""

from torch import Tensor, nn

__all__ = ["ResidualConv2d", "without_identity"]


class ResidualConv2d(nn.Conv2d):
    """x + convolution(x), with the parameters of the convolution; it keeps the grid and the number of channels.

    The sum is a convolution again, whose kernel has one more in its middle: `glmix.fuse` makes it that.
    """

    def forward(self, input: Tensor) -> Tensor:
        # not super().forward(input), which TorchScript does not compile
        return input + self._conv_forward(input, self.weight, self.bias)


def without_identity(conv: ResidualConv2d) -> nn.Conv2d:
    """Return a plain convolution that shares the parameters of `conv`."""
    plain = nn.Conv2d(
        conv.in_channels,
        conv.out_channels,
        conv.kernel_size,  # type: ignore[arg-type]
        conv.stride,  # type: ignore[arg-type]
        conv.padding,  # type: ignore[arg-type]
        conv.dilation,  # type: ignore[arg-type]
        conv.groups,
        bias=conv.bias is not None,
        padding_mode=conv.padding_mode,
        device="meta",
    )
    plain.weight, plain.bias = conv.weight, conv.bias
    return plain.train(conv.training)
