"""Image transforms of timm for training and evaluation, with the published hyperparameters as defaults."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from PIL import Image
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD, create_transform
from timm.data.auto_augment import posterize
from torch import Tensor
from torchvision.transforms import Compose

from ...errors import InputError

__all__ = ["TransformConfig"]


@dataclass(frozen=True)
class TransformConfig:
    """Configuration of the transforms. The defaults are the published recipe: crop, flip, RandAugment, random erasing.

    Args:
        size: side of the network input in pixels.
        scale: smallest and largest area of a training crop, as a fraction of the image area.
        ratio: smallest and largest aspect ratio of a training crop, width / height.
        hflip: probability of a left-right flip.
        vflip: probability of an up-down flip.
        auto_augment: name of an augmentation policy of timm; None for none.
        color_jitter: strength of colour jitter. As in timm and in the published recipe, it is only used without
            `auto_augment`.
        erasing: probability of random erasing in the normalised image.
        erasing_mode: fill of the erased rectangle: `pixel` for noise, `rand` for one random colour, `const` for the
            mean colour.
        interpolation: interpolation of all resizes.
        crop: centre crop of evaluation as a fraction of the shorter side (timm's crop_pct). The crop has `size` pixels.
        mean: mean of each channel, for values from 0 to 1. None: the mean of ImageNet for RGB images;
            `ImageData` measures the mean for other numbers of channels.
        std: standard deviation of each channel, for values from 0 to 1; None as for `mean`.
    """

    size: int = 224
    scale: tuple[float, float] = (0.08, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    hflip: float = 0.5
    vflip: float = 0.0
    auto_augment: str | None = "rand-m9-mstd0.5-inc1"
    color_jitter: float | None = 0.4
    erasing: float = 0.25
    erasing_mode: Literal["pixel", "rand", "const"] = "pixel"
    interpolation: Literal["bicubic", "bilinear", "random"] = "bicubic"
    crop: float = 0.9
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        for name in ("scale", "ratio", "mean", "std"):  # YAML gives lists
            if getattr(self, name) is not None:
                object.__setattr__(self, name, tuple(getattr(self, name)))
        if self.size < 1:
            raise InputError(f"size must be at least 1 pixel, got {self.size}.")
        if not 0 < self.scale[0] <= self.scale[1] <= 1:
            raise InputError(f"scale must be two fractions, 0 < smallest <= largest <= 1, got {self.scale}.")
        if not 0 < self.ratio[0] <= self.ratio[1]:
            raise InputError(f"ratio must be two numbers, 0 < smallest <= largest, got {self.ratio}.")
        for name in ("hflip", "vflip", "erasing"):
            if not 0 <= getattr(self, name) <= 1:
                raise InputError(f"{name} must be a probability from 0 to 1, got {getattr(self, name)}.")
        if not 0 < self.crop <= 1:
            raise InputError(f"crop must be a fraction of the shorter side, above 0 and at most 1, got {self.crop}.")
        if (self.mean is None) != (self.std is None) or len(self.mean or ()) != len(self.std or ()):
            raise InputError(
                f"mean and std must both have one number per channel, or both be null, got {self.mean} and {self.std}."
            )
        if self.std is not None and min(self.std) <= 0:
            raise InputError(f"std must be above 0 for each channel, got {self.std}.")

    def statistics(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Return mean and std, by default the values of ImageNet."""
        if self.mean is None or self.std is None:
            return IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
        return self.mean, self.std

    def train(self) -> Callable[[Image.Image], Tensor]:
        """Return the training transform. It uses the global generators of Python, numpy and torch."""
        geometry, rest = self.train_in_parts()
        return Compose([*geometry.transforms, *rest.transforms])

    def train_in_parts(self) -> tuple[Any, Any]:
        """Return the training transform in two parts: the geometric steps (crop, flips), and all later steps."""
        geometry, colours, tensor = create_transform(**self._training(), separate=True)
        for step in colours.transforms:
            _allow_no_bits(step)
        return geometry, Compose([*colours.transforms, *tensor.transforms])

    def eval(self) -> Callable[[Image.Image], Tensor]:
        """Return the evaluation transform, which is deterministic."""
        interpolation = "bicubic" if self.interpolation == "random" else self.interpolation
        mean, std = self.statistics()
        return create_transform(self.size, interpolation=interpolation, crop_pct=self.crop, mean=mean, std=std)

    def _training(self) -> dict[str, Any]:
        """Return the arguments of timm's `create_transform` for training."""
        mean, std = self.statistics()
        return {
            "input_size": self.size,
            "is_training": True,
            "scale": self.scale,
            "ratio": self.ratio,
            "hflip": self.hflip,
            "vflip": self.vflip,
            "auto_augment": self.auto_augment,
            "color_jitter": self.color_jitter,
            "re_prob": self.erasing,
            "re_mode": self.erasing_mode,
            "interpolation": self.interpolation,
            "mean": mean,
            "std": std,
        }


def _allow_no_bits(step: Any) -> None:
    """Let the posterize operation of a policy keep zero bits.

    The published policy does this for about one in 700 images. Pillow returned a black image before version 13 made it
    an error.
    """
    for ops in (getattr(step, "ops", ()), *getattr(step, "policy", ())):
        for op in ops:
            if op.aug_fn is posterize:
                op.aug_fn = _posterize


def _posterize(image: Image.Image, bits_to_keep: int, **kwargs: Any) -> Image.Image:
    if bits_to_keep < 1:
        return Image.new(image.mode, image.size)
    return posterize(image, bits_to_keep, **kwargs)
