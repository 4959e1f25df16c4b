"""Progressive resizing: train on small images first."""

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor

from ..errors import InputError

__all__ = ["ResizingConfig", "resize_batch"]


@dataclass(frozen=True)
class ResizingConfig:
    """Configuration of progressive resizing: the size of the training images grows linearly to their full size.

    Args:
        start: size in the first epoch, as a fraction of the full size.
        epochs: epochs until the full size is reached.
        multiple: sizes are rounded to a multiple of this number of pixels.
    """

    start: float = 0.5
    epochs: int = 10
    multiple: int = 32

    def __post_init__(self) -> None:
        if not 0 < self.start <= 1:
            raise InputError(f"progressive_resizing.start must be a fraction above 0, up to 1, got {self.start}.")
        if self.epochs < 1 or self.multiple < 1:
            raise InputError(
                f"progressive_resizing.epochs and multiple must be at least 1, got {self.epochs} and {self.multiple}."
            )

    def side(self, full: int, epoch: int) -> int:
        """Return the side of the training images in an epoch, whose full side is given."""
        if epoch >= self.epochs:
            return full
        scale = self.start + (1 - self.start) * epoch / self.epochs
        return min(full, max(1, round(full * scale / self.multiple)) * self.multiple)


def resize_batch(images: Tensor, targets: Tensor, config: ResizingConfig, epoch: int) -> tuple[Tensor, Tensor]:
    """Return a training batch with its images, and masks if it has them, in the size of an epoch.

    Args:
        images: images (B, C, H, W).
        targets: masks (B, H, W), or labels of another shape.
        config: configuration of the sizes.
        epoch: index of the epoch.
    """
    height, width = images.shape[2:]
    size = (config.side(height, epoch), config.side(width, epoch))
    if size == (height, width):
        return images, targets
    images = F.interpolate(images, size, mode="bilinear", antialias=True)
    if targets.ndim == 3:
        targets = F.interpolate(targets[:, None].float(), size, mode="nearest-exact")[:, 0].to(targets.dtype)
    return images, targets
