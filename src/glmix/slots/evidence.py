"""Class evidence per slot: how much the pixels of each slot contribute to the logit of a class.

Dimensions: B images, K classes, S slots, N pixels of a block's grid, h x w positions of the class activation.
"""

from torch import Tensor
from torch.nn import functional as F

from ..errors import InputError

__all__ = ["slot_evidence"]


def slot_evidence(activation: Tensor, assignment: Tensor, grid: tuple[int, int]) -> Tensor:
    """Distribute a class activation (B, K, h, w) among the slots of a block: (B, K, S).

    The assignment (B, S, N) is averaged to the positions of the activation, where it still sums to one over slots. The
    evidence of all slots therefore sums to the mean of the activation, which is the logit of the class.

    Args:
        activation: class activation (B, K, h, w).
        assignment: softmax over slots (B, S, N).
        grid: height and width of the pixel grid, N in total.

    Raises:
        InputError: the shapes do not match.
    """
    batch, _, pixels = assignment.shape
    if grid[0] * grid[1] != pixels:
        raise InputError(f"An assignment of {pixels} pixels does not match a grid of {grid[1]} x {grid[0]}.")
    if activation.ndim != 4 or activation.shape[0] != batch:
        raise InputError(f"The class activation must be ({batch}, K, h, w), got {tuple(activation.shape)}.")
    height, width = activation.shape[2:]
    positions = F.adaptive_avg_pool2d(assignment.float().unflatten(2, grid), (height, width))  # (B, S, h, w)
    shared: Tensor = activation.float().flatten(2) @ positions.flatten(2).transpose(1, 2)  # (B, K, S)
    return shared / (height * width)
