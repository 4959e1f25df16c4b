"""SlotCut: a normalised cut between object and background, in which pixels that share slots have a high affinity.

Let P (N x S) be the softmax over slots of a block and n = P^T 1. The kernel W = P diag(1/n) P^T between pixels is
symmetric, positive and doubly stochastic: (P^T c) / n averages the values c over the pixels of each slot, and P
distributes the averages to the pixels. W is never built. Its degrees are one, so the normalised cut is the second left
singular vector of Z = P diag(n)^-1/2, which follows from the S x S matrix Z^T Z. Concatenating several blocks, each P
divided by the number of blocks, gives the mean of their kernels.

Dimensions as in `layers/slots.py`: B images, N = h * w pixels, S slots of all blocks together.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from ..errors import InputError
from .maps import BlockMaps
from .measures import assignment_logits, effective_slots_per_pixel

__all__ = ["SlotKernel", "dense_cut", "orient_cut", "slot_cut", "slot_kernel", "soft_sign", "tempered_softmax"]

SHARPEST, STEPS = 8.0, 16  # log2 of the largest factor on the logits, and the number of bisection steps
EMPTY = 1e-6  # square root of the smallest size in pixels of a slot that is not empty
NOTHING = 1e-5  # smaller eigenvalues are rounding errors: such assignments do not separate pixels


def tempered_softmax(logits: Tensor, effective: float) -> Tensor:
    """Return the softmax over slots at the temperature that gives `effective` effective slots per pixel on average.

    The temperature is found by bisection, per image. The factor on the logits is limited to 2^-8 to 2^8, so the number
    is only approximated for uniform or hard assignments and for fewer slots than `effective`.

    Args:
        logits: (B, S, N).
        effective: target number of effective slots per pixel, at least 1.
    """
    if not effective >= 1:
        raise InputError(f"effective must be at least 1 slot per pixel, got {effective}.")
    low = logits.new_full((len(logits),), -SHARPEST)
    high = -low
    for _ in range(STEPS):
        middle = (low + high) / 2
        found = effective_slots_per_pixel((logits * middle.exp2()[:, None, None]).softmax(1)).mean(1)
        low, high = torch.where(found > effective, middle, low), torch.where(found > effective, high, middle)
    return (logits * ((low + high) / 2).exp2()[:, None, None]).softmax(1)


@dataclass(frozen=True, eq=False)
class SlotKernel:
    """The kernel W = P diag(1/n) P^T between the pixels of an image, as operators instead of a matrix.

    Args:
        assignment: (B, S, N), the transpose of P; sums to one over slots.
        grid: height and width of the pixel grid.
    """

    assignment: Tensor
    grid: tuple[int, int]

    @property
    def sizes(self) -> Tensor:
        """Number of pixels of each slot, n: (B, S)."""
        return self.assignment.sum(2)

    def to_slots(self, pixels: Tensor) -> Tensor:
        """Average pixel values over each slot: (B, K, h, w) -> (B, K, S). The average of an empty slot is 0."""
        sizes = self.sizes.unsqueeze(1)
        sums = pixels.flatten(2).to(self.assignment.dtype) @ self.assignment.transpose(1, 2)
        return sums / sizes.clamp_min(torch.finfo(sizes.dtype).tiny)

    def to_pixels(self, slots: Tensor) -> Tensor:
        """Distribute slot values to pixels: (B, K, S) -> (B, K, h, w)."""
        return (slots @ self.assignment).unflatten(2, self.grid)

    def smooth(self, pixels: Tensor) -> Tensor:
        """Multiply each channel by W: (B, K, h, w) -> (B, K, h, w)."""
        return self.to_pixels(self.to_slots(pixels))

    def cuts(self, count: int = 1) -> tuple[Tensor, Tensor]:
        """Return the leading eigenvalues of W after the first, which is 1, and their eigenvectors.

        Vectors have norm one, mean zero and an arbitrary sign. Vectors whose eigenvalue is a rounding error are zero:
        there are too few slots, or all pixels have the same assignment.

        Returns:
            Eigenvalues (B, count) and eigenvectors (B, count, h, w).
        """
        roots = self.sizes.sqrt().unsqueeze(2)  # (B, S, 1): first right singular vector, times sqrt(N)
        z = self.assignment / roots.clamp_min(EMPTY)  # (B, S, N): Z^T
        gram = z @ z.transpose(1, 2) - roots @ roots.transpose(1, 2) / z.shape[2]
        values, vectors = torch.linalg.eigh(gram)
        take = min(count, z.shape[1])
        values, vectors = values.flip(1)[:, :take], vectors.flip(2)[:, :, :take]
        found = vectors.transpose(1, 2) @ z  # (B, count, N)
        found = F.normalize(found - found.mean(2, keepdim=True), dim=2) * (values > NOTHING).unsqueeze(2)
        if take < count:
            values, found = F.pad(values, (0, count - take)), F.pad(found, (0, 0, 0, count - take))
        return values.clamp(0, 1), found.unflatten(2, self.grid)


def slot_kernel(
    maps: Sequence[BlockMaps], grid: tuple[int, int] | None = None, *, effective: float | None = 4.0
) -> SlotKernel:
    """Return the mean of the kernels of some blocks, on one grid.

    Logits are resized to that grid before the softmax. A pixel between two others then gets the slots of both, and
    boundaries between slots stay sharp.

    Args:
        maps: slot maps of one or more blocks for the same images.
        grid: height and width; None for the finest grid of the blocks.
        effective: number of effective slots per pixel, to which the temperature of each block's softmax is set. None:
            the learned temperature.
    """
    if not maps:
        raise InputError("A slot kernel needs the maps of at least one block, got none.")
    rows, cols = grid or max((block.grid for block in maps), key=lambda size: size[0] * size[1])
    parts = []
    for block in maps:
        logits = assignment_logits(block.assignment)
        if block.grid != (rows, cols):
            on_grid = logits.unflatten(2, block.grid)
            logits = F.interpolate(on_grid, (rows, cols), mode="bilinear", align_corners=False).flatten(2)
        parts.append(logits.softmax(1) if effective is None else tempered_softmax(logits, effective))
    return SlotKernel(torch.cat(parts, 1) / len(parts), (rows, cols))


def dense_cut(kernel: Tensor) -> Tensor:
    """Return the normalised cut (B, N), of any sign, of an explicit kernel (B, N, N) between pixels.

    Controls for SlotCut use it; SlotCut never builds such a kernel.
    """
    degrees = kernel.sum(2).clamp_min(torch.finfo(kernel.dtype).tiny).rsqrt()  # (B, N)
    _, vectors = torch.linalg.eigh(kernel * degrees[:, :, None] * degrees[:, None])
    second = vectors[:, :, -2] if vectors.shape[2] > 1 else torch.zeros_like(degrees)
    return second * degrees


def orient_cut(cut: Tensor, evidence: Tensor | None = None) -> Tensor:
    """Return the cut (B, h, w) with the sign that is positive on the object.

    Args:
        cut: (B, h, w), with any sign.
        evidence: (B, h', w'), larger on the object: the sign makes the correlation with it positive. None: the border
            of the image is background.
    """
    if evidence is None:
        inside = torch.ones_like(cut)
        inside[:, 0], inside[:, -1], inside[:, :, 0], inside[:, :, -1] = 0, 0, 0, 0
        evidence = inside
    elif evidence.shape[1:] != cut.shape[1:]:
        evidence = F.interpolate(evidence[:, None].float(), cut.shape[1:], mode="bilinear", align_corners=False)[:, 0]
    centred = evidence - evidence.mean((1, 2), keepdim=True)
    agreement = (cut * centred.to(cut.dtype)).sum((1, 2), keepdim=True)
    return torch.where(agreement < 0, -cut, cut)


def soft_sign(cut: Tensor) -> Tensor:
    """Return sigmoid(2 v / std(v)) of a cut v (B, h, w), from 0 to 1. A cut of zeros gives 0.5."""
    spread = cut.std((1, 2), correction=0, keepdim=True)
    return torch.sigmoid(2 * cut / spread.clamp_min(torch.finfo(cut.dtype).tiny))


def slot_cut(kernel: SlotKernel, evidence: Tensor | None = None) -> Tensor:
    """Return the objectness (B, h, w) of each pixel, from 0 for background to 1 for object.

    Args:
        kernel: kernel between the pixels.
        evidence: (B, h', w'), larger on the object, such as the highest class activation. None: the border of the image
            is background.
    """
    return soft_sign(orient_cut(kernel.cuts()[1][:, 0], evidence))
