"""Numbers and labels from assignments (B, S, N): what pictures and scores have in common."""

import torch
from torch import Tensor
from torch.nn import functional as F

from ..errors import InputError

__all__ = [
    "assignment_logits",
    "effective_slots_per_image",
    "effective_slots_per_pixel",
    "resize_assignment",
    "strongest_slots",
]


def _exp_entropy(distribution: Tensor) -> Tensor:
    """exp of the entropy along dimension 1: how many equal shares would be as undecided."""
    return torch.special.entr(distribution.float()).sum(1).exp()


def effective_slots_per_pixel(assignment: Tensor) -> Tensor:
    """Among how many slots each pixel is shared out: (B, S, N) -> (B, N), from 1 to S."""
    return _exp_entropy(assignment)


def effective_slots_per_image(assignment: Tensor) -> Tensor:
    """Among how many slots an image as a whole is shared out: (B, S, N) -> (B,), from 1 to S."""
    return _exp_entropy(assignment.float().mean(2))


def strongest_slots(assignment: Tensor) -> Tensor:
    """The slot that each pixel takes most from: (B, S, N) -> (B, N); the first one where several are equal."""
    return assignment.argmax(1)


def assignment_logits(assignment: Tensor) -> Tensor:
    """Logits whose softmax over slots is the assignment, in at least float32; they are known up to one number a pixel.

    A share of zero, which hard assignments have and soft ones where they underflow, counts as the smallest above it.
    """
    precision = torch.finfo(assignment.dtype)
    smallest = max(precision.tiny * precision.eps, 1e-38)
    wide = assignment if assignment.dtype == torch.float64 else assignment.float()
    return wide.clamp_min(smallest).log()


def resize_assignment(assignment: Tensor, grid: tuple[int, int], size: tuple[int, int]) -> Tensor:
    """The assignment on another grid of pixels: (B, S, N) on `grid` -> (B, S, N') on `size`.

    Logits are interpolated, then the softmax is taken: borders between slots stay as sharp as the slots are sure.
    """
    if assignment.shape[2] != grid[0] * grid[1]:
        raise InputError(f"An assignment of {assignment.shape[2]} pixels does not lie on a grid {grid[1]} x {grid[0]}.")
    logits = assignment_logits(assignment).unflatten(2, grid)  # (B, S, H, W)
    return F.interpolate(logits, size, mode="bilinear", align_corners=False).flatten(2).softmax(1)
