"""Refinement of class maps by slots: all pixels of a slot get a part of what a class claims of some."""

from collections.abc import Sequence

from torch import Tensor
from torch.nn import functional as F

from ...errors import InputError
from ...slots.cut import slot_kernel
from ...slots.maps import BlockMaps

__all__ = ["refine", "resized"]


def resized(maps: Tensor, grid: tuple[int, int]) -> Tensor:
    """Class maps (B, K, h, w) on another grid, bilinear."""
    if tuple(maps.shape[2:]) == tuple(grid):
        return maps
    return F.interpolate(maps, grid, mode="bilinear", align_corners=False)


def refine(
    classes: Tensor, maps: Sequence[BlockMaps], *, share: float = 0.5, effective: float | None = 4.0, steps: int = 1
) -> Tensor:
    """c <- (1 - a) c + a W c with the kernel of each block, from deep to shallow, each on its own grid.

    Args:
        classes: (B, K, h, w), such as class activation.
        maps: of blocks; several of one block, seen in several ways, make one kernel.
        share: a, how much comes from the slots: above 0.5 small objects are lost.
        effective: the temperature of the kernels, as in `slot_kernel`.
        steps: how often each block's kernel is applied.

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
