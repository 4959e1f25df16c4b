"""PAMR, pixel-adaptive mask refinement (Araslanov and Roth, 2020)."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from ...errors import InputError

__all__ = ["pamr"]


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


def pamr(
    masks: Tensor, images: Tensor, *, steps: int = 10, dilations: Sequence[int] = (1, 2, 4), sharpness: float = 10.0
) -> Tensor:
    """Refine masks: each step replaces a pixel by a mean of its neighbours, weighted by their similarity in colour.

    Colour differences are divided by the standard deviation of the colour around the pixel, so that weak edges in
    smooth regions are preserved.

    Args:
        masks: (B, K, h, w), resized to the size of the images.
        images: (B, C, H, W), with any normalisation.
        steps: number of iterations.
        dilations: distances of the neighbours in pixels.
        sharpness: weight of colour differences.

    Returns:
        (B, K, H, W).
    """
    if not dilations or min(dilations) < 1:
        raise InputError(f"dilations must be one or more distances from 1, got {tuple(dilations)}.")
    masks = F.interpolate(masks, images.shape[2:], mode="bilinear", align_corners=False)
    around = torch.stack(_neighbours(images, dilations), 2)  # (B, C, P, H, W)
    spread = around.std(2, keepdim=True, correction=0)
    difference = (around - images.unsqueeze(2)).abs() / (spread + 1e-8)
    weights = (-sharpness * difference.mean(1)).softmax(1).split(1, 1)  # P times (B, 1, H, W)
    for _ in range(steps):
        flown = torch.zeros_like(masks)
        for weight, neighbour in zip(weights, _neighbours(masks, dilations), strict=True):
            flown.addcmul_(weight, neighbour)
        masks = flown
    return masks
