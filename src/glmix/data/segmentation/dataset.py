"""Data set of images and masks. A training sample depends only on its `Draw`, not on the state of the worker."""

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
    """Interface of indexed images and masks, as `MaskFiles` has it."""

    def __len__(self) -> int: ...

    def name(self, index: int) -> str: ...

    def image(self, index: int) -> Image.Image: ...

    def mask(self, index: int) -> NDArray[np.uint8]: ...


class MaskSamples(Dataset[tuple[Tensor, Tensor]]):
    """Images and masks as tensors, indexed by a `Draw` in training and by a number in evaluation.

    Args:
        files: the images and masks.
        transform: maps an image and its mask to tensors.
        seed: seed of the augmentation.
    """

    def __init__(self, files: MaskedImages, transform: MaskTransform, *, seed: int = 0) -> None:
        self.files, self.transform, self.seed = files, transform, seed

    def __len__(self) -> int:
        return len(self.files)

    def sample_name(self, index: int) -> str:
        """Return the path of an image below its folder, without the suffix."""
        return self.files.name(index)

    def sample_picture(self, index: int) -> Image.Image:
        """Return an image without transforms."""
        return self.files.image(index)

    def __getitem__(self, index: int | Draw) -> tuple[Tensor, Tensor]:
        if not isinstance(index, Draw):
            return self.transform(self.files.image(index), self.files.mask(index))
        # stream 2 is independent of the random streams for the sample order and for the scenes
        with seeded(self.seed, index.epoch, index.position, 2):
            return self.transform(self.files.image(index.sample), self.files.mask(index.sample))


def collate_masks(samples: Sequence[tuple[Tensor, Tensor]]) -> tuple[Any, Any]:
    """Return images and masks as two stacked tensors if all sizes are equal, otherwise as two lists."""
    images, masks = zip(*samples, strict=True)
    if all(len({tensor.shape for tensor in tensors}) == 1 for tensors in (images, masks)):
        return torch.stack(images), torch.stack(masks)
    return list(images), list(masks)
