"""Refinement of class maps with slots, whose pixels share their scores, and with colours (PAMR)."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from ...errors import InputError
from ...slots.cut import slot_kernel
from ...slots.maps import BlockMaps

__all__ = ["pamr", "refine", "resized"]

SHARPNESS = 10.0  # weight of colour differences in PAMR


def resized(maps: Tensor, grid: tuple[int, int]) -> Tensor:
    """Resize maps (B, K, h, w) to another grid, with bilinear interpolation."""
    if tuple(maps.shape[2:]) == tuple(grid):
        return maps
    return F.interpolate(maps, grid, mode="bilinear", align_corners=False)


def refine(classes: Tensor, maps: Sequence[BlockMaps], *, share: float = 0.5, effective: float | None = 4.0) -> Tensor:
    """Apply c <- (1 - a) c + a W c with the kernel W of each block, from deep to shallow, each on its own grid.

    Args:
        classes: (B, K, h, w), such as class activation maps.
        maps: slot maps; maps of the same block in several views make one kernel.
        share: a, the weight of the slots. Values above 0.5 lose small objects.
        effective: number of effective slots per pixel, as in `slot_kernel`.

    Returns:
        (B, K, h', w') on the grid of the shallowest block.
    """
    if not 0 <= share <= 1:
        raise InputError(f"share must lie in [0, 1], got {share}.")
    for index in sorted({block.index for block in maps}, reverse=True):
        kernel = slot_kernel([block for block in maps if block.index == index], effective=effective)
        classes = resized(classes, kernel.grid)
        classes = (1 - share) * classes + share * kernel.smooth(classes).to(classes.dtype)
    return classes


def _neighbours(x: Tensor, dilations: Sequence[int]) -> list[Tensor]:
    """Return the eight neighbours of each pixel at each distance, as views of the shape of x (B, C, H, W).

    Pixels outside the image repeat its edge.
    """
    height, width = x.shape[2:]
    reach = max(dilations)
    padded = F.pad(x, (reach, reach, reach, reach), mode="replicate")  # reflection padding rejects small maps
    steps = [(down, right) for down in (-1, 0, 1) for right in (-1, 0, 1) if (down, right) != (0, 0)]
    corners = [(reach + d * down, reach + d * right) for d in dilations for down, right in steps]
    return [padded[:, :, top : top + height, left : left + width] for top, left in corners]


def pamr(masks: Tensor, images: Tensor, *, steps: int = 10, dilations: Sequence[int] = (1, 2, 4)) -> Tensor:
    """Refine masks by pixel-adaptive mask refinement (Araslanov and Roth, 2020).

    Each step replaces a pixel by a mean of its neighbours, weighted by their similarity in colour. Colour differences
    are divided by the standard deviation of the colour around the pixel, so that weak edges in smooth regions are
    preserved.

    Args:
        masks: (B, K, h, w), resized to the size of the images.
        images: (B, C, H, W), with any normalisation.
        steps: number of iterations.
        dilations: distances of the neighbours in pixels.

    Returns:
        (B, K, H, W).
    """
    if not dilations or min(dilations) < 1:
        raise InputError(f"dilations must be one or more distances from 1, got {tuple(dilations)}.")
    masks = F.interpolate(masks, images.shape[2:], mode="bilinear", align_corners=False)
    around = torch.stack(_neighbours(images, dilations), 2)  # (B, C, P, H, W)
    spread = around.std(2, keepdim=True, correction=0)
    difference = (around - images.unsqueeze(2)).abs() / (spread + 1e-8)
    weights = (-SHARPNESS * difference.mean(1)).softmax(1).split(1, 1)  # P times (B, 1, H, W)
    for _ in range(steps):
        flown = torch.zeros_like(masks)
        for weight, neighbour in zip(weights, _neighbours(masks, dilations), strict=True):
            flown.addcmul_(weight, neighbour)
        masks = flown
    return masks
