"""Measures of assignments (B, S, N) that figures and scores share, and the choice of representative slots."""

import torch
from torch import Tensor
from torch.nn import functional as F

from ..errors import InputError, needs_extra

__all__ = [
    "assignment_logits",
    "effective_slots_per_image",
    "effective_slots_per_pixel",
    "representative_slots",
    "resize_assignment",
    "strongest_slots",
]


def _exp_entropy(distribution: Tensor) -> Tensor:
    """Return exp of the entropy along dimension 1: the effective number of outcomes."""
    return torch.special.entr(distribution.float()).sum(1).exp()


def effective_slots_per_pixel(assignment: Tensor) -> Tensor:
    """Return the effective number of slots of each pixel, exp of the entropy: (B, S, N) -> (B, N), from 1 to S."""
    return _exp_entropy(assignment)


def effective_slots_per_image(assignment: Tensor) -> Tensor:
    """Return the effective number of slots of an image, exp of the entropy: (B, S, N) -> (B,), from 1 to S."""
    return _exp_entropy(assignment.float().mean(2))


def strongest_slots(assignment: Tensor) -> Tensor:
    """Return the slot with the highest weight in each pixel: (B, S, N) -> (B, N). In a tie, the first slot wins."""
    return assignment.argmax(1)


def assignment_logits(assignment: Tensor) -> Tensor:
    """Return logits whose softmax over slots is the assignment, in float32 or wider, up to a constant per pixel.

    Weights of zero, as in hard assignments or after underflow, are replaced by the smallest positive number.
    """
    precision = torch.finfo(assignment.dtype)
    smallest = max(precision.tiny * precision.eps, 1e-38)
    wide = assignment if assignment.dtype == torch.float64 else assignment.float()
    return wide.clamp_min(smallest).log()


def resize_assignment(assignment: Tensor, grid: tuple[int, int], size: tuple[int, int]) -> Tensor:
    """Resize an assignment to another pixel grid: (B, S, N) on `grid` -> (B, S, N') on `size`.

    Logits are interpolated before the softmax, which keeps boundaries between slots sharp.
    """
    if assignment.shape[2] != grid[0] * grid[1]:
        raise InputError(
            f"An assignment of {assignment.shape[2]} pixels does not match a grid of {grid[1]} x {grid[0]}."
        )
    logits = assignment_logits(assignment).unflatten(2, grid)  # (B, S, H, W)
    return F.interpolate(logits, size, mode="bilinear", align_corners=False).flatten(2).softmax(1)


def representative_slots(assignment: Tensor, count: int) -> list[int]:
    """Return the medoids of the slot maps (S, N) of one image, at most `count`, sorted by size, the largest first.

    The distance between two slots is the L1 distance of their maps. Identical slots count once. The result is
    deterministic.

    Args:
        assignment: softmax over slots (S, N).
        count: number of representative slots, at least 1.
    """
    with needs_extra("slots", "representative slots"):
        import kmedoids  # type: ignore[import-untyped]
    if count < 1:
        raise InputError(f"The number of representative slots must be at least 1, got {count}.")
    maps = assignment.detach().float().cpu()
    distances = torch.cdist(maps, maps, p=1)
    # a copy of an earlier slot cannot be a second medoid
    copies = (distances == 0).float().argmax(1)
    distinct = torch.unique(copies)
    distances = distances[distinct][:, distinct]
    if count >= len(distinct):
        chosen = list(range(len(distinct)))
    else:
        result = kmedoids.fasterpam(distances.numpy(), count, init="build", random_state=0, n_cpu=1)
        chosen = [int(slot) for slot in result.medoids]
    slots = [int(distinct[slot]) for slot in chosen]
    share = maps.sum(1)
    return sorted(slots, key=lambda slot: (-float(share[slot]), slot))
