"""Images with masks, read and augmented: what a draw of training gives depends on the draw alone."""

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from ..core.sampling import Draw, seeded
from .transforms import MaskTransform

__all__ = ["MaskSamples", "MaskedImages", "collate_masks"]


class MaskedImages(Protocol):
    """Anything that has images and masks by their number; `MaskFiles` does."""

    def __len__(self) -> int: ...

    def image(self, index: int) -> Image.Image: ...

    def mask(self, index: int) -> NDArray[np.uint8]: ...


class MaskSamples(Dataset[tuple[Tensor, Tensor]]):
    """Image and mask, as tensors, for a draw of training or an index of evaluation.

    Args:
        files: where they are from.
        transform: what becomes of them.
        seed: of the augmentation.
    """

    def __init__(self, files: MaskedImages, transform: MaskTransform, *, seed: int = 0) -> None:
        self.files, self.transform, self.seed = files, transform, seed

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, place: int | Draw) -> tuple[Tensor, Tensor]:
        if not isinstance(place, Draw):
            return self.transform(self.files.image(place), self.files.mask(place))
        # 2: another stream than those of the order and of the scenes
        with seeded(self.seed, place.epoch, place.position, 2):
            return self.transform(self.files.image(place.sample), self.files.mask(place.sample))


def collate_masks(samples: Sequence[tuple[Tensor, Tensor]]) -> tuple[Any, Any]:
    """Images and masks, each in one tensor if all are of one size, otherwise in a list."""
    images, masks = zip(*samples, strict=True)
    if all(len({part.shape for part in parts}) == 1 for parts in (images, masks)):
        return torch.stack(images), torch.stack(masks)
    return list(images), list(masks)
