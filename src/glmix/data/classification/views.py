"""Classifier input: the centre crop of the evaluation transform, or the whole image."""

import math
from typing import Any, Literal

import timm
from PIL import Image, ImageOps
from torch import Tensor, nn

from ...errors import InputError
from ..core.decoding import to_8_bit

__all__ = [
    "VIEW_NAMES",
    "View",
    "ViewTransform",
    "class_probabilities",
    "describe_view",
    "input_config",
    "model_input",
    "shorter_side",
    "upright",
    "whole_size",
]

View = Literal["crop", "whole"]
VIEW_NAMES: dict[View, str] = {"crop": "centre crop", "whole": "whole image"}


def input_config(model: nn.Module, size: tuple[int, int] | None = None) -> dict[str, Any]:
    """Return the data configuration of timm for the evaluation transform of a model.

    Args:
        model: any model of timm.
        size: height and width to resize the whole image to. None uses the input size and centre crop of the model.

    Raises:
        InputError: if the model takes neither greyscale nor RGB images.
    """
    config = dict(timm.data.resolve_model_data_config(model))
    channels = getattr(model, "in_chans", config["input_size"][0])
    if channels not in (1, 3):
        raise InputError(f"The model must have 1 or 3 input channels, got {channels}.")
    config["input_size"] = (channels, *(config["input_size"][1:] if size is None else size))
    if size is not None:
        config |= {"crop_pct": 1.0, "crop_mode": "squash"}
    if channels == 1:
        config |= {name: (sum(config[name]) / len(config[name]),) for name in ("mean", "std")}
    return config


def shorter_side(model: nn.Module, view: View) -> int:
    """Return the length in pixels that the shorter side of an image is resized to for a view, before cropping."""
    config = input_config(model)
    if view == "whole":
        return min(config["input_size"][1:])
    return math.ceil(max(config["input_size"][1:]) / config["crop_pct"])


def whole_size(image: Image.Image, model: nn.Module, shorter: int | None = None) -> tuple[int, int]:
    """Return the height and width that a whole upright image is resized to, with its aspect ratio.

    Args:
        image: upright image.
        model: any model of timm.
        shorter: length of the shorter side in pixels; None for the shorter side of the input size of the model.
    """
    if shorter is None:
        shorter = min(timm.data.resolve_model_data_config(model)["input_size"][1:])
    factor = shorter / min(image.size)
    return max(shorter, round(image.height * factor)), max(shorter, round(image.width * factor))


def upright(image: Image.Image, channels: int) -> Image.Image:
    """Apply the EXIF orientation and convert an image to 8-bit greyscale (1 channel) or RGB (3 channels)."""
    return to_8_bit(ImageOps.exif_transpose(image)).convert("L" if channels == 1 else "RGB")


def model_input(image: Image.Image, model: nn.Module, size: tuple[int, int] | None = None) -> Tensor:
    """Return the normalised input tensor (C, H, W) of a model; see `input_config` for `size`."""
    config = input_config(model, size)
    pixels: Tensor = timm.data.create_transform(**config, is_training=False)(upright(image, config["input_size"][0]))
    return pixels


class ViewTransform:
    """Transform from an upright image in `mode` to the normalised input (C, H, W) of a model.

    It does not hold the model, so that it is small when it is pickled for a worker process.

    Args:
        model: any model of timm.
        view: part of the image that the model gets.
        max_pixels: maximum number of pixels after resizing the shorter side. Small files with extreme aspect ratios
            can become very large.

    Attributes:
        mode: mode of Pillow, L or RGB.
        shorter: length in pixels that the shorter side is resized to, before cropping.
    """

    def __init__(self, model: nn.Module, view: View, max_pixels: int) -> None:
        self.view, self.max_pixels = view, max_pixels
        self.config = input_config(model)
        self.mode = "L" if self.config["input_size"][0] == 1 else "RGB"
        self.shorter = shorter_side(model, view)
        self._crop = timm.data.create_transform(**self.config, is_training=False)

    def __call__(self, image: Image.Image) -> Tensor:
        factor = self.shorter / min(image.size)
        width, height = round(image.width * factor), round(image.height * factor)
        if width * height > self.max_pixels:
            raise InputError(
                f"The image of {image.width} x {image.height} pixels would be resized to {width} x {height}, but at "
                f"most {self.max_pixels:,} pixels are accepted; --max-pixels raises the limit."
            )
        transform = self._crop
        if self.view == "whole":
            size = (self.config["input_size"][0], max(self.shorter, height), max(self.shorter, width))
            config = self.config | {"input_size": size, "crop_pct": 1.0, "crop_mode": "squash"}
            transform = timm.data.create_transform(**config, is_training=False)
        pixels: Tensor = transform(image)
        return pixels


def describe_view(view: View | None, size: tuple[int, int]) -> str:
    """Return a description such as "whole image, 336 x 224 pixels", with the width first.

    Args:
        view: view to name; None leaves it out.
        size: height and width.
    """
    height, width = size
    pixels = f"{width} x {height} pixels"
    return pixels if view is None else f"{VIEW_NAMES[view]}, {pixels}"


def class_probabilities(model: nn.Module, logits: Tensor, multi_label: bool = False) -> Tensor:
    """Convert logits (..., K) to probabilities: sigmoid for multi-label classification, else softmax.

    Args:
        model: a classifier; a GLNet knows whether it was trained with several labels per image.
        logits: its outputs.
        multi_label: treat the model as a multi-label classifier.
    """
    logits = logits.float()
    if multi_label or getattr(model, "multi_label", False):
        return logits.sigmoid()
    return logits.softmax(-1)
