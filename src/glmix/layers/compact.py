"""Soft clustering with a faster backward pass on a CPU, which keeps less memory.

Autograd keeps several matrices (B, S, N) in float32 for the sequence of operations of the plain bridge. The gradient
needs only the two matrices that the bridge returns, which the products with pixels and slots keep anyway.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .bridge import SoftBridge
from .capture import is_capturing
from .kernels import compile_kernel
from .slots import cosine_logits, pixels_of, soft_pair

__all__ = ["CompactSoftBridge"]

DTYPES = (torch.float32, torch.bfloat16)  # dtypes that the compiled functions support
SMALLEST = 1 << 18  # minimum number of elements of a matrix (B * S * N) for the compiled functions
LARGEST = 40.0  # maximum scale for shared exponentials: exp(-2 * 40) is still a normal number in float32
EPS = 1e-12  # smallest norm, as in `cosine_logits`


class CompactSoftBridge(SoftBridge):
    """A `SoftBridge` that keeps only its inputs and outputs for the backward pass.

    It is used on a CPU without a mask. On processors with AVX-512 and a C++ compiler, compiled functions compute the
    two softmaxes of large matrices and their gradients in float32 and bfloat16. In captured graphs (torch.compile,
    torch.export, TorchScript) and everywhere else, this is `SoftBridge`. It has no parameters or attributes of its own,
    so a bridge is converted by changing its `__class__`.
    """

    def forward(self, y: Tensor, x: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
        if not torch.jit.is_scripting() and not is_capturing() and mask is None and y.device.type == "cpu":
            dtype = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else y.dtype
            seeds, pixels = self.seeds_of(x).to(dtype), pixels_of(y).to(dtype)
            pair: tuple[Tensor, Tensor] = _SoftPair.apply(seeds, pixels, self.scale, y.dtype)
            return pair
        # not super().forward(y, x, mask), which TorchScript does not compile
        return soft_pair(self.logits(y, x, mask), y.dtype, mask)


class _Kernels(NamedTuple):
    """The functions of this module, compiled or not."""

    forward: Callable[..., tuple[Tensor, Tensor]]
    backward: Callable[..., Tensor]
    project: Callable[..., Tensor]


class _SoftPair(torch.autograd.Function):
    """The matrices of soft clustering (B, S, N) for seeds (B, S, C) and pixels (B, N, C).

    The logits are scale * cos(seed, pixel). A normalised vector v / |v| with the gradient g gives v the gradient
    (g - (g . v) v / |v|^2) / |v|, so the logits are not needed for the gradients of seeds and pixels. Second
    derivatives are computed by the operations of `SoftBridge`.
    """

    @staticmethod
    def forward(ctx: Any, seeds: Tensor, pixels: Tensor, scale: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        elements = seeds.shape[0] * seeds.shape[1] * pixels.shape[1]
        suitable = pixels.dtype == dtype and dtype in DTYPES and elements >= SMALLEST
        ctx.kernels = _kernels(dtype) if suitable and scale.abs().item() <= LARGEST else None
        if ctx.kernels is None:
            clustering, assignment = soft_pair(cosine_logits(seeds, pixels, scale), dtype)
        else:
            products = _directions(seeds, scale, _norm(seeds)) @ pixels.transpose(1, 2)
            with torch.autocast("cpu", enabled=False):  # the functions were compiled without autocast
                clustering, assignment = ctx.kernels.forward(products, _norm(pixels), scale.detach())
        ctx.save_for_backward(seeds, pixels, scale, clustering, assignment)
        return clustering, assignment

    @staticmethod
    def backward(ctx: Any, grad_clustering: Tensor, grad_assignment: Tensor) -> tuple[Tensor | None, ...]:
        seeds, pixels, scale, clustering, assignment = ctx.saved_tensors
        needed = ctx.needs_input_grad[:3]
        if torch.is_grad_enabled():  # create_graph=True
            inputs = [tensor for tensor, need in zip((seeds, pixels, scale), needed, strict=True) if need]
            outputs = soft_pair(cosine_logits(seeds, pixels, scale), clustering.dtype)
            grads = (grad_clustering, grad_assignment)
            found = iter(torch.autograd.grad(outputs, inputs, grads, create_graph=True))
            return *(next(found) if need else None for need in needed), None
        kernels: _Kernels = ctx.kernels or _Kernels(_forward, _backward, _project)
        seed_norm, pixel_norm = _norm(seeds), _norm(pixels)
        matrices = [
            grad_clustering.contiguous(),
            grad_assignment.contiguous(),
            clustering.detach(),
            assignment.detach(),
        ]
        products = kernels.backward(*matrices, pixel_norm).to(pixels.dtype)  # gradient of directions @ pixels^T
        grad_seeds = grad_pixels = grad_scale = None
        if needed[1]:
            grad_pixels = products.transpose(1, 2) @ _directions(seeds, scale, seed_norm)
            grad_pixels = kernels.project(grad_pixels, pixels.detach(), pixel_norm)
        if needed[0] or needed[2]:
            grad_directions = products @ pixels  # (B, S, C)
            if needed[2]:
                along = (grad_directions * seeds).sum(2, dtype=seed_norm.dtype) / seed_norm
                grad_scale = along.sum().to(scale.dtype).reshape(scale.shape)
            if needed[0]:
                turned = _project(grad_directions, seeds, seed_norm) * (scale / seed_norm.unsqueeze(2))
                grad_seeds = turned.to(seeds.dtype)
        return grad_seeds, grad_pixels, grad_scale, None


def _norm(x: Tensor) -> Tensor:
    """Return the norms of vectors (B, N, C), clamped as in `cosine_logits`, in at least float32."""
    dtype = torch.promote_types(x.dtype, torch.float32)
    return torch.linalg.vector_norm(x, dim=2, dtype=dtype).clamp_min(EPS)


def _directions(seeds: Tensor, scale: Tensor, norm: Tensor) -> Tensor:
    return (seeds * (scale / norm.unsqueeze(2))).to(seeds.dtype)


@functools.cache
def _kernels(dtype: torch.dtype) -> _Kernels | None:
    """Return the compiled functions for a dtype; None if they cannot be compiled here."""
    norm = torch.ones(2, 60)
    matrices = [torch.zeros(2, 48, 60, dtype=dtype) for _ in range(4)]  # distinct, as aliases would specialise
    pixels = [torch.zeros(2, 60, 40, dtype=dtype) for _ in range(2)]
    forward = compile_kernel(_forward, matrices[0], norm, torch.ones(1))
    if forward is None:
        return None
    backward, project = compile_kernel(_backward, *matrices, norm), compile_kernel(_project, *pixels, norm)
    return None if backward is None or project is None else _Kernels(forward, backward, project)


def _forward(products: Tensor, pixel_norm: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
    """Return the softmaxes over pixels and over slots for products (B, S, N); both share their exponentials.

    Cosines are bounded, so no maximum is needed: the largest possible logit is subtracted.
    """
    exponentials = (products.to(pixel_norm.dtype) / pixel_norm.unsqueeze(1) - scale.abs()).exp()
    over_pixels, over_slots = (exponentials * exponentials.sum(dim, True).reciprocal() for dim in (2, 1))
    return over_pixels.to(products.dtype), over_slots.to(products.dtype)


def _backward(
    grad_clustering: Tensor, grad_assignment: Tensor, clustering: Tensor, assignment: Tensor, pixel_norm: Tensor
) -> Tensor:
    """Return the gradient of the products (B, S, N) for the gradients of the two softmaxes."""
    grad_logits: Tensor | int = 0
    for matrix, softmax, dim in ((grad_clustering, clustering, 2), (grad_assignment, assignment, 1)):
        grad, weights = matrix.to(pixel_norm.dtype), softmax.to(pixel_norm.dtype)
        grad_logits = grad_logits + weights * (grad - (weights * grad).sum(dim, True))
    return (grad_logits / pixel_norm.unsqueeze(1)).to(clustering.dtype)


def _project(grad: Tensor, vectors: Tensor, norm: Tensor) -> Tensor:
    """Return grad - (grad . v) v / |v|^2 for vectors (B, N, C); clamped norms are constants, whose gradient is zero."""
    grad_wide, wide, norm = grad.to(norm.dtype), vectors.to(norm.dtype), norm.unsqueeze(2)
    along = (grad_wide * wide).sum(2, True) / norm.square()
    return (grad_wide - wide * torch.where(norm > EPS, along, 0.0)).to(grad.dtype)
