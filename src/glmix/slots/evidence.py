"""Class evidence by slot: how much of what speaks for a class lies in the pixels of each slot.

Letters: B images, K classes, S slots, N pixels of a block's grid, h x w positions of the class activation.
"""

from torch import Tensor
from torch.nn import functional as F

from ..errors import InputError

__all__ = ["slot_evidence"]


def slot_evidence(activation: Tensor, assignment: Tensor, grid: tuple[int, int]) -> Tensor:
    """Share out a class activation (B, K, h, w) among the slots of a block: (B, K, S).

    The assignment (B, S, N) is averaged to the activation's positions, where it still sums to one over slots. So the
    evidence of all slots adds up exactly to the activation's mean, which is the logit of the class.
    """
    batch, _, pixels = assignment.shape
    if grid[0] * grid[1] != pixels:
        raise InputError(f"An assignment of {pixels} pixels does not lie on a grid {grid[1]} x {grid[0]}.")
    if activation.ndim != 4 or activation.shape[0] != batch:
        raise InputError(f"The class activation must be ({batch}, K, h, w), got {tuple(activation.shape)}.")
    height, width = activation.shape[2:]
    positions = F.adaptive_avg_pool2d(assignment.float().unflatten(2, grid), (height, width))  # (B, S, h, w)
    shared: Tensor = activation.float().flatten(2) @ positions.flatten(2).transpose(1, 2)  # (B, K, S)
    return shared / (height * width)
