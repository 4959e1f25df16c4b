"""A convolution with a residual connection."""

from torch import Tensor, nn

__all__ = ["ResidualConv2d", "without_identity"]


class ResidualConv2d(nn.Conv2d):
    """x + convolution(x), with the parameters of the convolution.

    The sum equals a single convolution with 1 added to the centre of the kernel; `glmix.fuse` makes this replacement.
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
