"""Transforms of images and masks for semantic segmentation; the defaults are the published recipe for ADE20K."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as V

from ...errors import InputError
from .files import IGNORE

__all__ = ["MaskTransform", "MaskTransformConfig", "PhotometricDistortion", "fitted_size"]

MaskTransform = Callable[[Image.Image, NDArray[np.uint8]], tuple[Tensor, Tensor]]

CROP_ATTEMPTS = 10  # after these attempts, a crop that exceeds category_max_ratio is accepted


def fitted_size(size: tuple[int, int], box: tuple[int, int] | None, scale: float = 1.0) -> tuple[int, int]:
    """Return the size (H, W) of an image that is scaled to fit a box, keeping its aspect ratio.

    Args:
        size: (H, W) of the image.
        box: (longer, shorter) side of the box; None takes the size of the image.
        scale: a factor on the size of the box.
    """
    height, width = size
    if box is not None:
        scale *= min(box[0] / max(size), box[1] / min(size))
    return max(1, int(height * scale + 0.5)), max(1, int(width * scale + 0.5))


@dataclass(frozen=True)
class MaskTransformConfig:
    """Configuration of the transforms: resize, crop, flip, photometric distortion, normalise, pad.

    The defaults are the published recipe for ADE20K.

    Args:
        resize: (longer, shorter) side of a box that images are scaled to fit; None keeps their size.
        scale: smallest and largest additional scale factor in training.
        crop: side of the square training crop in pixels. Smaller images are padded with the mean colour, and their
            masks with `IGNORE`.
        category_max_ratio: maximum share of a crop that one class may cover; ten crops are tried.
        hflip: probability of a horizontal flip.
        photometric: probability of each change of brightness, contrast, saturation and hue.
        mean, std: channel statistics for normalisation, for pixel values from 0 to 1.
    """

    resize: tuple[int, int] | None = (2048, 512)
    scale: tuple[float, float] = (0.5, 2.0)
    crop: int = 512
    category_max_ratio: float = 0.75
    hflip: float = 0.5
    photometric: float = 0.5
    mean: tuple[float, float, float] = IMAGENET_DEFAULT_MEAN
    std: tuple[float, float, float] = IMAGENET_DEFAULT_STD

    def __post_init__(self) -> None:
        for name in ("resize", "scale", "mean", "std"):  # YAML gives lists
            value = getattr(self, name)
            object.__setattr__(self, name, None if value is None else tuple(value))
        if self.resize is not None and (len(self.resize) != 2 or not 1 <= self.resize[1] <= self.resize[0]):
            raise InputError(f"resize must be two sides in pixels, longer and shorter, got {self.resize}.")
        if len(self.scale) != 2 or not 0 < self.scale[0] <= self.scale[1]:
            raise InputError(f"scale must be two factors, 0 < smallest <= largest, got {self.scale}.")
        if self.crop < 1:
            raise InputError(f"crop must be at least 1 pixel, got {self.crop}.")
        if not 0 < self.category_max_ratio <= 1:
            raise InputError(f"category_max_ratio must be above 0 and at most 1, got {self.category_max_ratio}.")
        for name in ("hflip", "photometric"):
            if not 0 <= getattr(self, name) <= 1:
                raise InputError(f"{name} must be a probability from 0 to 1, got {getattr(self, name)}.")

    def train(self) -> MaskTransform:
        """Return the training transform: image and mask to float (3, crop, crop) and int64 (crop, crop).

        Random numbers come from torch's global generator.
        """
        augment = v2.Compose(
            [v2.RandomHorizontalFlip(self.hflip), PhotometricDistortion(p=self.photometric), *self._normalise()]
        )

        def transform(image: Image.Image, mask: NDArray[np.uint8]) -> tuple[Tensor, Tensor]:
            x, y = _tensors(image, mask)
            factor = float(torch.empty(()).uniform_(*self.scale))
            size = list(fitted_size((x.shape[1], x.shape[2]), self.resize, factor))
            x, y = V.resize(x, size, antialias=True), V.resize(y, size)
            x, y = augment(*self._crop(x, y))
            bottom, right = self.crop - y.shape[0], self.crop - y.shape[1]
            x, y = F.pad(x, (0, right, 0, bottom)), F.pad(y, (0, right, 0, bottom), value=IGNORE)
            return x.as_subclass(Tensor), y.as_subclass(Tensor).long()

        return transform

    def eval(self) -> MaskTransform:
        """Return the evaluation transform: the image resized to fit `resize` and normalised, the mask unchanged.

        The image becomes float (3, H, W), the mask int64 in the size of its file.
        """
        normalise = v2.Compose(self._normalise())

        def transform(image: Image.Image, mask: NDArray[np.uint8]) -> tuple[Tensor, Tensor]:
            x, y = _tensors(image, mask)
            size = list(fitted_size((x.shape[1], x.shape[2]), self.resize))
            return normalise(V.resize(x, size, antialias=True)).as_subclass(Tensor), y.as_subclass(Tensor).long()

        return transform

    def _normalise(self) -> list[Any]:
        """Return the steps that normalise an image."""
        return [
            v2.ToDtype({tv_tensors.Image: torch.float32, "others": None}, scale=True),
            v2.Normalize(self.mean, self.std),
        ]

    def _crop(self, image: Any, mask: Any) -> tuple[Any, Any]:
        """Crop at random; try again while one class covers more than `category_max_ratio` of the crop."""
        height, width = mask.shape
        rows, columns = min(self.crop, height), min(self.crop, width)
        for _ in range(CROP_ATTEMPTS):
            top = int(torch.randint(height - rows + 1, ()))
            left = int(torch.randint(width - columns + 1, ()))
            window = mask[top : top + rows, left : left + columns]
            if self.category_max_ratio == 1:
                break
            counts = torch.bincount(window.flatten(), minlength=IGNORE + 1)[:IGNORE]
            if counts.count_nonzero() > 1 and counts.max() < self.category_max_ratio * counts.sum():
                break
        return (V.crop(x, top, left, rows, columns) for x in (image, mask))  # type: ignore[return-value]


class PhotometricDistortion(v2.RandomPhotometricDistort):  # type: ignore[misc]
    """Random brightness, contrast, saturation and hue without channel permutation, as published for segmentation."""

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        return {**super().make_params(flat_inputs), "channel_permutation": None}


def _tensors(image: Image.Image, mask: NDArray[np.uint8]) -> tuple[Any, Any]:
    """Convert an image and its mask to torchvision's tensors."""
    return tv_tensors.Image(V.pil_to_tensor(image)), tv_tensors.Mask(torch.from_numpy(mask))
