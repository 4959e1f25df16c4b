"""Seeds: class scores and objectness per pixel, and the class index per pixel, with 0 for the background."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .refine import pamr, resized

__all__ = ["SeedMaps", "normalise_activation", "scale_to_max"]


def normalise_activation(activation: Tensor, present: Tensor) -> Tensor:
    """Normalise class activations to class maps (B, K, h, w) from 0 to 1; maps of absent classes are zero.

    The lowest activation of a map becomes 0 and the highest becomes 1. Negative activations are not clamped to 0,
    because a class that the classifier misses is present all the same.

    Args:
        activation: (B, K, h, w), of any range.
        present: image labels (B, K), 1 for each class in an image.
    """
    above = (activation - activation.amin((2, 3), keepdim=True)) * present[:, :, None, None].to(activation.dtype)
    return scale_to_max(above)


def scale_to_max(maps: Tensor) -> Tensor:
    """Divide each map (B, K, h, w) of values from 0 by its maximum. Maps of zeros stay zero."""
    return maps / maps.amax((2, 3), keepdim=True).clamp_min(torch.finfo(maps.dtype).tiny)


@dataclass(frozen=True, eq=False)
class SeedMaps:
    """Class scores and objectness per pixel.

    Args:
        classes: (B, K, h, w), from 0 to 1, 0 for classes that are not present.
        objectness: (B, h, w), from 0 to 1. None: class maps alone determine the foreground.
    """

    classes: Tensor
    objectness: Tensor | None = None

    @property
    def score(self) -> Tensor:
        """Foreground score (B, h, w) from 0 to 1: the mean of the highest class score and the objectness.

        It is 0 where all class scores are 0: without a class there is no foreground, whatever the objectness.
        """
        best = self.classes.amax(1)
        return best if self.objectness is None else torch.where(best > 0, (best + self.objectness) / 2, 0.0)

    def at(self, grid: tuple[int, int]) -> "SeedMaps":
        """Resize the maps to another grid."""
        objectness = None if self.objectness is None else resized(self.objectness[:, None], grid)[:, 0]
        return SeedMaps(resized(self.classes, grid), objectness)

    def refined_by_pamr(self, images: Tensor, dilations: Sequence[int] = (1, 2, 4)) -> "SeedMaps":
        """Refine the maps with PAMR at the size of the images (B, C, H, W)."""
        if self.objectness is None:
            return SeedMaps(pamr(self.classes, images, dilations=dilations))
        both = pamr(torch.cat((self.classes, self.objectness[:, None]), 1), images, dilations=dilations)
        return SeedMaps(both[:, :-1], both[:, -1])

    def masks(self, threshold: float) -> Tensor:
        """Return int64 masks (B, h, w): 0 where the score is below the threshold, otherwise the highest class + 1."""
        return torch.where(self.score < threshold, 0, self.classes.argmax(1) + 1)
