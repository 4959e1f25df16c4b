"""Depthwise convolution with a faster weight gradient on CPUs.

The weight gradient of oneDNN's depthwise convolution takes many times as long as the other passes if the kernel is
large and the memory is channels-last. Here it is a set of reductions, with products and sums in float32:

    gradient[c, i, j] = sum over b, h, w of x[b, c, h + i - p, w + j - p] * grad_output[b, c, h, w]

torch.compile compiles the reduction over w for one row of the kernel at a time. The remaining sums are small. A model
that is itself compiled has these reductions in its own graph.
"""

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .capture import is_exporting
from .kernels import HAS_AVX512, compile_kernel

__all__ = ["DepthwiseConv2d", "is_large_depthwise"]

KERNELS = (5, 7)
DTYPES = (torch.float32, torch.bfloat16)
# Smallest number of elements of a feature map (B * C * H * W) for which this gradient is used. Every measured map from
# this size on is faster (docs/speed.md). The choice must not depend on a measurement at run time: the two gradients
# round differently, and a resumed training must repeat the bits of an uninterrupted one.
SMALLEST = 1 << 17

WeightGradient = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]


class DepthwiseConv2d(nn.Conv2d):
    """A depthwise convolution that is an `nn.Conv2d` in every respect but the time of its backward pass on a CPU.

    The faster gradient is used for channels-last maps in float32 and bfloat16 on processors with AVX-512 and a C++
    compiler, if the map is large enough; with torch 2.12 or newer also under torch.compile. In traced, scripted and
    exported graphs and everywhere else, this is `nn.Conv2d`. It has no parameters or attributes of its own, so a
    convolution is converted by changing its `__class__`.
    """

    def forward(self, input: Tensor) -> Tensor:
        if not torch.jit.is_scripting() and not torch.jit.is_tracing() and not is_exporting():
            dtype = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else input.dtype
            needed = torch.is_grad_enabled() and self.weight.requires_grad
            suitable = input.device.type == "cpu" and input.is_contiguous(memory_format=torch.channels_last)
            if needed and suitable and input.numel() >= SMALLEST and dtype in DTYPES:
                gradient = _weight_gradient(int(self.kernel_size[0]), dtype)
                if gradient is not None:
                    result: Tensor = _Depthwise.apply(input.to(dtype), self.weight, self.bias, gradient)
                    return result
        # not super().forward(input), which TorchScript does not compile
        return self._conv_forward(input, self.weight, self.bias)


def is_large_depthwise(module: nn.Module) -> bool:
    """Return whether a module is a depthwise convolution that `DepthwiseConv2d` can replace."""
    return (
        type(module) is nn.Conv2d
        and module.groups == module.in_channels == module.out_channels
        and module.groups > 1
        and module.kernel_size in [(kernel, kernel) for kernel in KERNELS]
        and module.stride == module.dilation == (1, 1)
        and module.padding in ("same", (module.kernel_size[0] // 2,) * 2)
        and module.padding_mode == "zeros"
    )


class _Depthwise(torch.autograd.Function):
    """A depthwise convolution with stride 1 and the padding (kernel - 1) / 2.

    The weight may have another dtype than the input, as in autocast. Its gradient is then not rounded to the dtype of
    the input. Second derivatives are computed by `F.conv2d`.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, gradient: WeightGradient) -> Tensor:
        ctx.save_for_backward(x, weight, bias)
        ctx.gradient = gradient
        return _convolve(x, weight, bias)

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, bias = ctx.saved_tensors
        needed = ctx.needs_input_grad[:3]
        if torch.is_grad_enabled():  # create_graph=True
            inputs = [tensor for tensor, need in zip((x, weight, bias), needed, strict=True) if need]
            found = iter(torch.autograd.grad(_convolve(x, weight, bias), inputs, grad_output, create_graph=True))
            return *(next(found) if need else None for need in needed), None
        grad_x = grad_weight = grad_bias = None
        if needed[0]:
            padding = [weight.shape[2] // 2] * 2
            grad_x = torch.ops.aten.convolution_backward(
                grad_output, x, weight.to(x.dtype), None, [1, 1], padding, [1, 1], False, [0, 0], len(weight),
                [True, False, False],
            )[0]  # fmt: skip
        if needed[1] or needed[2]:
            grad_weight, sums = ctx.gradient(x, grad_output)
            grad_weight = torch.empty_like(weight).copy_(grad_weight) if needed[1] else None
            grad_bias = sums.to(bias.dtype) if needed[2] else None
        return grad_x, grad_weight, grad_bias, None


def _convolve(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    bias = None if bias is None else bias.to(x.dtype)
    return F.conv2d(x, weight.to(x.dtype), bias, padding=weight.shape[2] // 2, groups=len(weight))


def _weight_gradient(kernel: int, dtype: torch.dtype) -> WeightGradient | None:
    """Return the gradient for a kernel size and dtype; None if it is not faster or cannot be compiled here."""
    if torch.compiler.is_compiling():  # the graph of the model gets the reductions
        return functools.partial(_reduce, kernel, _reduce_row) if HAS_AVX512 else None
    return _compiled_gradient(kernel, dtype)


@functools.cache
def _compiled_gradient(kernel: int, dtype: torch.dtype) -> WeightGradient | None:
    """Compile the gradient, once for all sizes."""
    example = torch.zeros(2, 12, 20, 48, dtype=dtype)
    padded = F.pad(example, (0, 0, *[kernel // 2] * 4))[:, :12]  # rows of a larger map, as in _reduce
    reduce_row = compile_kernel(_reduce_row, padded, example, kernel)
    return None if reduce_row is None else functools.partial(_reduce, kernel, reduce_row)


def _reduce(kernel: int, reduce_row: Callable[..., Tensor], x: Tensor, grad_output: Tensor) -> tuple[Tensor, Tensor]:
    """Return the gradients of weight (C, 1, K, K) and bias (C,) for x and grad_output (B, C, H, W), in float32."""
    border = kernel // 2
    with torch.no_grad():
        grad = grad_output.permute(0, 2, 3, 1).contiguous()  # (B, H, W, C): a view of channels-last memory
        padded = F.pad(x.permute(0, 2, 3, 1), (0, 0, border, border, border, border)).contiguous()
        height = grad.shape[1]
        rows = [reduce_row(padded[:, row : row + height], grad, kernel).sum((1, 2)).unbind() for row in range(kernel)]
        weight = torch.stack([torch.stack(row[:kernel]) for row in rows])  # (K, K, C)
        return weight.permute(2, 0, 1).unsqueeze(1), rows[0][kernel]


def _reduce_row(x: Tensor, grad: Tensor, kernel: int) -> Tensor:
    """Return one row of the weight gradient and the bias gradient, before the sums over images and rows.

    Args:
        x: padded input (B, H, W + K - 1, C), shifted by the row of the kernel.
        grad: gradient of the output (B, H, W, C).
        kernel: kernel size K.

    Returns:
        (K + 1, B, H, C) in float32.
    """
    width, grad = grad.shape[2], grad.float()
    products = [(x[:, :, column : column + width].float() * grad).sum(2) for column in range(kernel)]
    return torch.stack([*products, grad.sum(2)])
