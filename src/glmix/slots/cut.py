"""SlotCut: pixels that share slots belong together, and a normalised cut parts object from background.

Let P (N x S) be a block's softmax over slots and n = P^T 1. The kernel W = P diag(1/n) P^T between pixels is symmetric,
positive and doubly stochastic: (P^T c) / n is the score that c gives each slot, and P hands it back. W is never built.
As its degrees are one, the normalised cut is the second left singular vector of Z = P diag(n)^-1/2, which the S x S
matrix Z^T Z has. Several blocks side by side, each P over the number of blocks, make the mean of their kernels.

Letters as in `layers/slots.py`: B images, N = h * w pixels, S slots, of all blocks together.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from ..errors import InputError
from .maps import BlockMaps
from .measures import assignment_logits, effective_slots_per_pixel

__all__ = ["SlotKernel", "oriented", "slot_cut", "slot_kernel", "soft_sign", "tempered"]

SHARPEST, STEPS = 8.0, 16  # log2 of the highest factor on logits, and how often its range is halved
EMPTY = 1e-6  # the square root of how many pixels a slot must have to count
NOTHING = 1e-5  # eigenvalues below it are rounding: such assignments part nothing


def tempered(logits: Tensor, effective: float) -> Tensor:
    """The softmax over slots at the temperature at which pixels have so many effective slots, in the mean of an image.

    Each image has its own, found by bisection. What cannot be reached (fewer slots than that, assignments that are
    uniform or hard) is approached as far as 2^-8 to 2^8 times the logits go.

    Args:
        logits: (B, S, N).
        effective: the number aimed at, at least 1.
    """
    if not effective >= 1:
        raise InputError(f"A pixel has at least 1 effective slot, got {effective}.")
    low = logits.new_full((len(logits),), -SHARPEST)
    high = -low
    for _ in range(STEPS):
        middle = (low + high) / 2
        found = effective_slots_per_pixel((logits * middle.exp2()[:, None, None]).softmax(1)).mean(1)
        low, high = torch.where(found > effective, middle, low), torch.where(found > effective, high, middle)
    return (logits * ((low + high) / 2).exp2()[:, None, None]).softmax(1)


@dataclass(frozen=True, eq=False)
class SlotKernel:
    """The kernel W = P diag(1/n) P^T between the pixels of an image, by what it does.

    Args:
        assignment: (B, S, N), the transpose of P; sums to one over slots.
        grid: rows and columns of the pixels.
    """

    assignment: Tensor
    grid: tuple[int, int]

    @property
    def sizes(self) -> Tensor:
        """(B, S): n, how many pixels each slot has."""
        return self.assignment.sum(2)

    def to_slots(self, pixels: Tensor) -> Tensor:
        """The mean over each slot's pixels: (B, K, h, w) -> (B, K, S). An empty slot has 0."""
        sizes = self.sizes.unsqueeze(1)
        sums = pixels.flatten(2).to(self.assignment.dtype) @ self.assignment.transpose(1, 2)
        return sums / sizes.clamp_min(torch.finfo(sizes.dtype).tiny)

    def to_pixels(self, slots: Tensor) -> Tensor:
        """What each pixel takes from its slots: (B, K, S) -> (B, K, h, w)."""
        return (slots @ self.assignment).unflatten(2, self.grid)

    def smooth(self, pixels: Tensor) -> Tensor:
        """W times each channel: (B, K, h, w) -> (B, K, h, w)."""
        return self.to_pixels(self.to_slots(pixels))

    def cuts(self, count: int = 1) -> tuple[Tensor, Tensor]:
        """The leading eigenvalues (B, count) of W below the first, which is 1, and their vectors (B, count, h, w).

        Vectors have length one, mean zero and no particular sign. Those of an eigenvalue that is nothing but rounding
        are zero: fewer slots than that, or assignments in which all pixels are alike.
        """
        roots = self.sizes.sqrt().unsqueeze(2)  # (B, S, 1): the first right singular vector, times sqrt(N)
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
    """The mean of the kernels of blocks, on one grid.

    Logits are carried to that grid before the softmax, so that a pixel between two others takes the slots of both, and
    edges between slots stay sharp.

    Args:
        maps: of one or more blocks, of the same images.
        grid: rows and columns; None for the finest of the blocks.
        effective: the effective number of slots of a pixel that each block's softmax is brought to; None leaves the
            temperature as it was learnt.
    """
    if not maps:
        raise InputError("A kernel needs the maps of at least one block.")
    rows, cols = grid or max((block.grid for block in maps), key=lambda size: size[0] * size[1])
    parts = []
    for block in maps:
        logits = assignment_logits(block.assignment)
        if block.grid != (rows, cols):
            on_grid = logits.unflatten(2, block.grid)
            logits = F.interpolate(on_grid, (rows, cols), mode="bilinear", align_corners=False).flatten(2)
        parts.append(logits.softmax(1) if effective is None else tempered(logits, effective))
    return SlotKernel(torch.cat(parts, 1) / len(parts), (rows, cols))


def oriented(cut: Tensor, evidence: Tensor | None = None) -> Tensor:
    """The cut (B, h, w) with the sign that is positive on the object.

    Args:
        evidence: (B, h', w'), larger where the object is: the sign is that of their correlation. None: the border of
            the image is taken for background.
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
    """o = sigmoid(2 v / std(v)), from 0 to 1: (B, h, w). A cut of zeros, which parts nothing, gives 0.5."""
    spread = cut.std((1, 2), correction=0, keepdim=True)
    return torch.sigmoid(2 * cut / spread.clamp_min(torch.finfo(cut.dtype).tiny))


def slot_cut(kernel: SlotKernel, evidence: Tensor | None = None) -> Tensor:
    """How much each pixel belongs to the object rather than to the background: (B, h, w), from 0 to 1.

    Args:
        evidence: (B, h', w'), larger where the object is, such as the highest class activation; None: the object is
            what the image's border is not.
    """
    return soft_sign(oriented(kernel.cuts()[1][:, 0], evidence))
