"""What happens to an image with boxes and masks before it is trained on: torchvision's transforms, by numbers."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torchvision import tv_tensors
from torchvision.transforms import v2

from ...errors import InputError

__all__ = ["DetectionTransform", "flips", "shortest_edge"]


def shortest_edge(height: int, width: int, min_size: int, max_size: int) -> tuple[int, int]:
    """The size with this shortest edge, or a smaller one with this longest edge, in the same proportions."""
    scale = min(min_size / min(height, width), max_size / max(height, width))
    return max(1, round(height * scale)), max(1, round(width * scale))


class _Resize(v2.Transform):  # type: ignore[misc]
    """To a shorter side that is drawn from some. torchvision's own moves masks by half a pixel against the image."""

    def __init__(self, min_sizes: Sequence[int], max_size: int) -> None:
        super().__init__()
        self.min_sizes, self.max_size = tuple(min_sizes), max_size

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        height, width = v2.query_size(flat_inputs)
        drawn = self.min_sizes[_draw(0, len(self.min_sizes) - 1)]
        return {"size": list(shortest_edge(height, width, drawn, self.max_size))}

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        if not isinstance(inpt, tv_tensors.Mask):
            return v2.functional.resize(inpt, params["size"], antialias=True)
        resized = v2.functional.resize_image(inpt, params["size"], v2.InterpolationMode.NEAREST_EXACT)
        return tv_tensors.wrap(resized, like=inpt)


class _Crop(v2.Transform):  # type: ignore[misc]
    """A crop whose sides are drawn from a range, or the image's own where that is smaller."""

    def __init__(self, sides: tuple[int, int]) -> None:
        super().__init__()
        self.sides = sides

    def make_params(self, flat_inputs: list[Any]) -> dict[str, int]:
        lowest, highest = self.sides
        size = v2.query_size(flat_inputs)
        height, width = (_draw(min(side, lowest), min(side, highest)) for side in size)
        return {"top": _draw(0, size[0] - height), "left": _draw(0, size[1] - width), "height": height, "width": width}

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        return v2.functional.crop(inpt, **params)


def _draw(lowest: int, highest: int) -> int:
    return int(torch.randint(lowest, highest + 1, ()))


def _of_objects(inputs: tuple[Any, dict[str, Any]]) -> tuple[Any, ...]:
    """What has an entry for each object, beside boxes and masks."""
    return (inputs[1]["labels"],)


def flips(horizontal: float, vertical: float) -> v2.Transform:
    """Mirror left-right and up-down with these probabilities."""
    steps = (v2.RandomHorizontalFlip, horizontal), (v2.RandomVerticalFlip, vertical)
    return v2.Compose([step(chance) for step, chance in steps if chance] or [v2.Identity()])


@dataclass(frozen=True)
class DetectionTransform:
    """The defaults are those of a training of 12 epochs: shorter side to 800 pixels, flip.

    Args:
        min_sizes: lengths of the shorter side, one of which is drawn.
        max_size: greatest length of the longer side; the shorter is then less.
        crop: probability that an image is first resized to one of `crop_sizes`, then cropped.
        crop_sizes: lengths of the shorter side before the crop.
        crop_range: shortest and longest side of the crop.
        hflip, vflip: probabilities of mirroring left-right and up-down.
    """

    min_sizes: tuple[int, ...] = (800,)
    max_size: int = 1333
    crop: float = 0.0
    crop_sizes: tuple[int, ...] = (400, 500, 600)
    crop_range: tuple[int, int] = (384, 600)
    hflip: float = 0.5
    vflip: float = 0.0

    def __post_init__(self) -> None:
        for name in ("min_sizes", "crop_sizes", "crop_range"):  # lists, which YAML gives, become tuples
            value = tuple(getattr(self, name))
            object.__setattr__(self, name, value)
            if not value or min(value) < 1:
                raise InputError(f"{name} must be one or more numbers of pixels, got {value}.")
        if self.max_size < max(self.min_sizes):
            raise InputError(f"max_size must be at least {max(self.min_sizes)}, of min_sizes, got {self.max_size}.")
        if len(self.crop_range) != 2 or self.crop_range[0] > self.crop_range[1]:
            raise InputError(f"crop_range must be a shortest and a longest side, got {self.crop_range}.")
        for name in ("crop", "hflip", "vflip"):
            if not 0 <= getattr(self, name) <= 1:
                raise InputError(f"{name} must be a probability from 0 to 1, got {getattr(self, name)}.")

    def build(self) -> Callable[[Any, dict[str, Any]], tuple[Any, dict[str, Any]]]:
        """A function of image and target, which draws from torch's global generator.

        Objects of which a crop leaves less than a pixel are dropped.
        """
        resize: Any = _Resize(self.min_sizes, self.max_size)
        if self.crop:
            cropped = v2.Compose([_Resize(self.crop_sizes, self.max_size), _Crop(self.crop_range), resize])
            resize = v2.RandomChoice([cropped, resize], p=[self.crop, 1 - self.crop])
        sanitize = v2.SanitizeBoundingBoxes(min_size=1, labels_getter=_of_objects)
        # rounded numbers may leave the image by an epsilon, for which an object would be dropped
        return v2.Compose([resize, flips(self.hflip, self.vflip), v2.ClampBoundingBoxes(), sanitize])
