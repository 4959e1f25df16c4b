"""What happens to an image between file and batch: timm's transforms with the published numbers, each an argument."""

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
    """The defaults are the published recipe: crop, flip, RandAugment, normalise, erase.

    Args:
        size: pixels a side of what the network sees.
        scale: smallest and largest share of the image's area that a crop of training covers.
        ratio: narrowest and widest crop, width / height.
        hflip, vflip: probabilities of mirroring left-right and up-down.
        auto_augment: timm's name of a policy, or None for none.
        color_jitter: strength. As in timm and in the published recipe it acts only where there is no `auto_augment`.
        erasing: probability that a rectangle of the normalised image is erased.
        erasing_mode: `pixel`: filled with noise; `rand`: one random colour; `const`: the mean colour.
        interpolation: of every resize.
        crop: what evaluation keeps of the shorter side, after a resize that makes the rest `size` pixels.
        mean, std: of each colour, white being 1.
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
    mean: tuple[float, float, float] = IMAGENET_DEFAULT_MEAN
    std: tuple[float, float, float] = IMAGENET_DEFAULT_STD

    def __post_init__(self) -> None:
        for name in ("scale", "ratio", "mean", "std"):  # lists, which YAML gives, become tuples
            object.__setattr__(self, name, tuple(getattr(self, name)))
        if self.size < 1:
            raise InputError(f"size must be at least 1 pixel, got {self.size}.")
        if not 0 < self.scale[0] <= self.scale[1] <= 1:
            raise InputError(f"scale must be two shares, 0 < smallest <= largest <= 1, got {self.scale}.")
        if not 0 < self.ratio[0] <= self.ratio[1]:
            raise InputError(f"ratio must be two numbers, 0 < narrowest <= widest, got {self.ratio}.")
        for name in ("hflip", "vflip", "erasing"):
            if not 0 <= getattr(self, name) <= 1:
                raise InputError(f"{name} must be a probability from 0 to 1, got {getattr(self, name)}.")
        if not 0 < self.crop <= 1:
            raise InputError(f"crop must be a share of the side, above 0 and at most 1, got {self.crop}.")

    def train(self) -> Callable[[Image.Image], Tensor]:
        """The transform of training; it draws from the global generators of Python, numpy and torch."""
        geometry, rest = self.train_in_parts()
        return Compose([*geometry.transforms, *rest.transforms])

    def train_in_parts(self) -> tuple[Any, Any]:
        """The same in two: what moves pixels in ways that dense labels follow (crop, flips), and all that is after."""
        geometry, colours, tensor = create_transform(**self._training(), separate=True)
        for step in colours.transforms:
            _allow_no_bits(step)
        return geometry, Compose([*colours.transforms, *tensor.transforms])

    def eval(self) -> Callable[[Image.Image], Tensor]:
        """The transform of evaluation, which draws nothing."""
        interpolation = "bicubic" if self.interpolation == "random" else self.interpolation
        return create_transform(
            self.size, interpolation=interpolation, crop_pct=self.crop, mean=self.mean, std=self.std
        )

    def _training(self) -> dict[str, Any]:
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
            "mean": self.mean,
            "std": self.std,
        }


def _allow_no_bits(step: Any) -> None:
    """Let the posterising of a policy keep no bit at all.

    The published policy asks for that about once in 700 images. Pillow made them black until version 13 refused.
    """
    for ops in (getattr(step, "ops", ()), *getattr(step, "policy", ())):
        for op in ops:
            if op.aug_fn is posterize:
                op.aug_fn = _posterize


def _posterize(image: Image.Image, bits_to_keep: int, **kwargs: Any) -> Image.Image:
    if bits_to_keep < 1:
        return Image.new(image.mode, image.size)
    return posterize(image, bits_to_keep, **kwargs)
