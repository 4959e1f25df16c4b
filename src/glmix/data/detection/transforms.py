"""Training transforms of images with boxes and masks, built from torchvision's transforms."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torchvision import tv_tensors
from torchvision.transforms import v2

from ...errors import InputError

__all__ = ["DetectionTransform", "flips", "shortest_edge"]


def shortest_edge(height: int, width: int, min_size: int, max_size: int) -> tuple[int, int]:
    """Return the size (H, W) of an image resized to a shortest edge of `min_size`, with a longest edge of `max_size`.

    The aspect ratio is kept, so the shortest edge is smaller if the longest edge would exceed `max_size`.
    """
    scale = min(min_size / min(height, width), max_size / max(height, width))
    return max(1, round(height * scale)), max(1, round(width * scale))


class _Resize(v2.Transform):  # type: ignore[misc]
    """Resize the shortest edge to a random choice of lengths.

    torchvision's transform is not used, because it shifts masks by half a pixel against the image.
    """

    def __init__(self, min_sizes: Sequence[int], max_size: int) -> None:
        super().__init__()
        self.min_sizes, self.max_size = tuple(min_sizes), max_size

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        height, width = v2.query_size(flat_inputs)
        min_size = self.min_sizes[_randint(0, len(self.min_sizes) - 1)]
        return {"size": list(shortest_edge(height, width, min_size, self.max_size))}

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        if not isinstance(inpt, tv_tensors.Mask):
            return v2.functional.resize(inpt, params["size"], antialias=True)
        resized = v2.functional.resize_image(inpt, params["size"], v2.InterpolationMode.NEAREST_EXACT)
        return tv_tensors.wrap(resized, like=inpt)


class _Crop(v2.Transform):  # type: ignore[misc]
    """Random crop whose sides are drawn from a range, at most the sides of the image."""

    def __init__(self, sides: tuple[int, int]) -> None:
        super().__init__()
        self.sides = sides

    def make_params(self, flat_inputs: list[Any]) -> dict[str, int]:
        lowest, highest = self.sides
        size = v2.query_size(flat_inputs)
        height, width = (_randint(min(side, lowest), min(side, highest)) for side in size)
        top, left = _randint(0, size[0] - height), _randint(0, size[1] - width)
        return {"top": top, "left": left, "height": height, "width": width}

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        return v2.functional.crop(inpt, **params)


def _randint(lowest: int, highest: int) -> int:
    """Return a random integer, both bounds included, from torch's global generator."""
    return int(torch.randint(lowest, highest + 1, ()))


def _labels(inputs: tuple[Any, dict[str, Any]]) -> tuple[Any, ...]:
    """Return the tensors with one entry per object, besides boxes and masks."""
    return (inputs[1]["labels"],)


def flips(horizontal: float, vertical: float) -> v2.Transform:
    """Return a transform that flips horizontally and vertically with these probabilities."""
    steps = (v2.RandomHorizontalFlip, horizontal), (v2.RandomVerticalFlip, vertical)
    return v2.Compose([step(probability) for step, probability in steps if probability] or [v2.Identity()])


@dataclass(frozen=True)
class DetectionTransform:
    """Configuration of the training transform.

    The defaults are those of the 12-epoch schedule (1x): resize the shortest edge to 800 pixels, and flip.

    Args:
        min_sizes: lengths of the shortest edge, one of which is chosen at random.
        max_size: maximum length of the longest edge; the shortest edge is reduced if necessary.
        crop: probability of resizing to one of `crop_sizes` and cropping before the final resize.
        crop_sizes: lengths of the shortest edge before the crop.
        crop_range: minimum and maximum side of the crop.
        hflip, vflip: probabilities of a horizontal and a vertical flip.
    """

    min_sizes: tuple[int, ...] = (800,)
    max_size: int = 1333
    crop: float = 0.0
    crop_sizes: tuple[int, ...] = (400, 500, 600)
    crop_range: tuple[int, int] = (384, 600)
    hflip: float = 0.5
    vflip: float = 0.0

    def __post_init__(self) -> None:
        for name in ("min_sizes", "crop_sizes", "crop_range"):  # YAML gives lists
            value = tuple(getattr(self, name))
            object.__setattr__(self, name, value)
            if not value or min(value) < 1:
                raise InputError(f"{name} must be one or more numbers of pixels, at least 1, got {value}.")
        if self.max_size < max(self.min_sizes):
            largest = max(self.min_sizes)
            raise InputError(f"max_size must be at least {largest}, the maximum of min_sizes, got {self.max_size}.")
        if len(self.crop_range) != 2 or self.crop_range[0] > self.crop_range[1]:
            raise InputError(f"crop_range must be a minimum and a maximum side, got {self.crop_range}.")
        for name in ("crop", "hflip", "vflip"):
            if not 0 <= getattr(self, name) <= 1:
                raise InputError(f"{name} must be a probability from 0 to 1, got {getattr(self, name)}.")

    def build(self) -> Callable[[Any, dict[str, Any]], tuple[Any, dict[str, Any]]]:
        """Return a transform of an image and its target, which uses torch's global generator.

        Objects that are smaller than a pixel after a crop are dropped.
        """
        resize: Any = _Resize(self.min_sizes, self.max_size)
        if self.crop:
            crop = v2.Compose([_Resize(self.crop_sizes, self.max_size), _Crop(self.crop_range), resize])
            resize = v2.RandomChoice([crop, resize], p=[self.crop, 1 - self.crop])
        sanitize = v2.SanitizeBoundingBoxes(min_size=1, labels_getter=_labels)
        # without the clamp, rounding errors can move a box out of the image, and its object would be dropped
        return v2.Compose([resize, flips(self.hflip, self.vflip), v2.ClampBoundingBoxes(), sanitize])
