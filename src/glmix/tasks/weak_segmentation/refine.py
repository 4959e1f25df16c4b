"""Refinement of class maps by slots: class scores spread between pixels that share slots."""

from collections.abc import Sequence

from torch import Tensor
from torch.nn import functional as F

from ...errors import InputError
from ...slots.cut import slot_kernel
from ...slots.maps import BlockMaps

__all__ = ["refine", "resized"]


def resized(maps: Tensor, grid: tuple[int, int]) -> Tensor:
    """Resize maps (B, K, h, w) to another grid, with bilinear interpolation."""
    if tuple(maps.shape[2:]) == tuple(grid):
        return maps
    return F.interpolate(maps, grid, mode="bilinear", align_corners=False)


def refine(
    classes: Tensor, maps: Sequence[BlockMaps], *, share: float = 0.5, effective: float | None = 4.0, steps: int = 1
) -> Tensor:
    """Apply c <- (1 - a) c + a W c with the kernel W of each block, from deep to shallow, each on its own grid.

    Args:
        classes: (B, K, h, w), such as class activation maps.
        maps: slot maps; maps of the same block in several views make one kernel.
        share: a, the weight of the slots. Values above 0.5 lose small objects.
        effective: number of effective slots per pixel, as in `slot_kernel`.
        steps: number of applications of each block's kernel.

    Returns:
        (B, K, h', w') on the grid of the shallowest block.
    """
    if not 0 <= share <= 1:
        raise InputError(f"share must lie in [0, 1], got {share}.")
    for index in sorted({block.index for block in maps}, reverse=True):
        kernel = slot_kernel([block for block in maps if block.index == index], effective=effective)
        classes = resized(classes, kernel.grid)
        for _ in range(steps):
            classes = (1 - share) * classes + share * kernel.smooth(classes).to(classes.dtype)
    return classes
