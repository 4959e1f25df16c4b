"""Seeds: from class maps and the cut to a class index at each pixel, with 0 for the background."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .pamr import pamr
from .refine import resized

__all__ = ["SeedMaps", "claims", "topped"]


def claims(activation: Tensor, present: Tensor) -> Tensor:
    """Class maps from 0 to 1: from the lowest to the highest activation of each class that is present in the image.

    Nothing is cut off at zero, as a class that the classifier has missed is present all the same.

    Args:
        activation: (B, K, h, w), of any range.
        present: (B, K), 1 for the classes that the image's labels name.
    """
    above = (activation - activation.amin((2, 3), keepdim=True)) * present[:, :, None, None].to(activation.dtype)
    return topped(above)


def topped(maps: Tensor) -> Tensor:
    """Each map (B, K, h, w), of values from 0, over its highest value; a map of zeros stays."""
    return maps / maps.amax((2, 3), keepdim=True).clamp_min(torch.finfo(maps.dtype).tiny)


@dataclass(frozen=True, eq=False)
class SeedMaps:
    """What each pixel may be.

    Args:
        classes: (B, K, h, w), from 0 to 1, 0 for classes that are not present.
        objectness: (B, h, w), from 0 to 1; None where class maps alone decide.
    """

    classes: Tensor
    objectness: Tensor | None = None

    @property
    def score(self) -> Tensor:
        """The score of the foreground (B, h, w), from 0 to 1: the mean of the highest class and the objectness.

        It is 0 where no class has a share: without a class there is no foreground, whatever the objectness.
        """
        best = self.classes.amax(1)
        return best if self.objectness is None else torch.where(best > 0, (best + self.objectness) / 2, 0.0)

    def at(self, grid: tuple[int, int]) -> "SeedMaps":
        """The same at another resolution."""
        objectness = None if self.objectness is None else resized(self.objectness[:, None], grid)[:, 0]
        return SeedMaps(resized(self.classes, grid), objectness)

    def polished(self, images: Tensor, dilations: Sequence[int] = (1, 2, 4)) -> "SeedMaps":
        """The same, refined by pixel-adaptive mask refinement at the size of the images (B, C, H, W)."""
        if self.objectness is None:
            return SeedMaps(pamr(self.classes, images, dilations=dilations))
        both = pamr(torch.cat((self.classes, self.objectness[:, None]), 1), images, dilations=dilations)
        return SeedMaps(both[:, :-1], both[:, -1])

    def masks(self, threshold: float) -> Tensor:
        """(B, h, w) int64: 0 where the score is below the threshold, the strongest class + 1 elsewhere."""
        return torch.where(self.score < threshold, 0, self.classes.argmax(1) + 1)
