"""Classifier input: the centre crop of the evaluation transform, or the whole image."""

import math
from pathlib import Path
from typing import Any, BinaryIO, Literal

import timm
from PIL import Image, ImageOps
from torch import Tensor, nn

from ...errors import InputError
from ..core.arrays import needs_array, read_array
from ..core.decoding import read_image, to_8_bit
from .channels import array_input

__all__ = [
    "VIEW_NAMES",
    "View",
    "ViewReader",
    "class_probabilities",
    "describe_view",
    "input_config",
    "model_input",
    "seen_region",
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
        InputError: if the mean and the standard deviation of the channels are unknown.
    """
    config = dict(timm.data.resolve_model_data_config(model))
    channels = getattr(model, "in_chans", config["input_size"][0])
    if channels not in (1, len(config["mean"])):
        raise InputError(
            f"The model takes images of {channels} channels, but has mean and std for {len(config['mean'])}: use a "
            "checkpoint of `glmix fit`, which has them."
        )
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


def whole_size(image: Image.Image | tuple[int, int], model: nn.Module, shorter: int | None = None) -> tuple[int, int]:
    """Return the height and width that a whole upright image is resized to, with its aspect ratio.

    Args:
        image: upright image, or its (width, height).
        model: any model of timm.
        shorter: length of the shorter side in pixels; None for the shorter side of the input size of the model.
    """
    if shorter is None:
        shorter = min(timm.data.resolve_model_data_config(model)["input_size"][1:])
    width, height = image.size if isinstance(image, Image.Image) else image
    factor = shorter / min(width, height)
    return max(shorter, round(height * factor)), max(shorter, round(width * factor))


def seen_region(
    size: tuple[int, int], input_size: tuple[int, int], view: View, crop_pct: float, crop_mode: str = "center"
) -> tuple[float, float, float, float]:
    """Return the part of an image that a model input covers: left, top, right, bottom in pixels of the image.

    Args:
        size: (width, height) of the upright image.
        input_size: (width, height) of the model input.
        view: view of the image.
        crop_pct: see `timm.data.create_transform`.
        crop_mode: see `timm.data.create_transform`. The padding of `border` lies outside the image.
    """
    if view == "whole":
        return 0.0, 0.0, float(size[0]), float(size[1])
    factors = [math.floor(goal / crop_pct) / side for goal, side in zip(input_size, size, strict=True)]
    if crop_mode != "squash":
        factors = [min(factors) if crop_mode == "border" else max(factors)] * 2
    spans = [goal / factor for goal, factor in zip(input_size, factors, strict=True)]
    (left, top) = ((side - span) / 2 for side, span in zip(size, spans, strict=True))
    return left, top, left + spans[0], top + spans[1]


def upright(image: Image.Image, channels: int) -> Image.Image:
    """Apply the EXIF orientation and convert an image to 8-bit greyscale (1 channel) or RGB (3 channels).

    Raises:
        InputError: for another number of channels.
    """
    if channels not in (1, 3):
        raise InputError(f"The model must have 1 or 3 input channels, got {channels}.")
    return to_8_bit(ImageOps.exif_transpose(image)).convert("L" if channels == 1 else "RGB")


def model_input(image: Image.Image, model: nn.Module, size: tuple[int, int] | None = None) -> Tensor:
    """Return the normalised input tensor (C, H, W) of a model; see `input_config` for `size`."""
    config = input_config(model, size)
    pixels: Tensor = timm.data.create_transform(**config, is_training=False)(upright(image, config["input_size"][0]))
    return pixels


class ViewReader:
    """Reader of the model input for an image file. It does not hold the model, so that it is small when pickled.

    Args:
        model: any model of timm.
        view: part of the image that the model gets.
        max_pixels: maximum number of pixels of the image, and after resizing its shorter side. Small files with extreme
            aspect ratios can become very large.
    """

    def __init__(self, model: nn.Module, view: View, max_pixels: int) -> None:
        self.view, self.max_pixels = view, max_pixels
        self.config = input_config(model)
        self.channels: int = self.config["input_size"][0]
        self.shorter = shorter_side(model, view)
        # timm has no transform for other numbers of channels
        self._crop = timm.data.create_transform(**self.config, is_training=False) if self.channels in (1, 3) else None

    def __call__(self, source: Path | BinaryIO) -> tuple[Tensor, tuple[int, int]]:
        """Return the normalised input (C, H, W) and the (width, height) of the upright image.

        Args:
            source: image file, or its content.

        Raises:
            FileNotFoundError: if there is no such file.
            InputError: if the file is not an image with the channels of the model, or is too large.
        """
        if needs_array(source, self.channels):
            array = read_array(source, self.channels, self.max_pixels)
            size = (array.shape[1], array.shape[0])
            whole = self._whole_size(size)
            config, crop_pct = self.config, self.config["crop_pct"] if whole is None else None
            goal = config["input_size"][1:] if whole is None else whole
            return array_input(array, goal, config["mean"], config["std"], crop_pct=crop_pct), size
        mode = "L" if self.channels == 1 else "RGB"
        image = read_image(source, mode, max_pixels=self.max_pixels, at_least=self.shorter)
        whole = self._whole_size(image.size)
        transform = self._crop
        if whole is not None:
            config = self.config | {"input_size": (self.channels, *whole), "crop_pct": 1.0, "crop_mode": "squash"}
            transform = timm.data.create_transform(**config, is_training=False)
        assert transform is not None  # images with other channels are arrays
        pixels: Tensor = transform(image)
        return pixels, image.size

    def _whole_size(self, size: tuple[int, int]) -> tuple[int, int] | None:
        """Return the height and width of a whole image after resizing, or None for the centre crop."""
        factor = self.shorter / min(size)
        width, height = (round(side * factor) for side in size)
        if width * height > self.max_pixels:
            raise InputError(
                f"The image of {size[0]} x {size[1]} pixels would be resized to {width} x {height}, but at most "
                f"{self.max_pixels:,} pixels are accepted; --max-pixels raises the limit."
            )
        return (max(self.shorter, height), max(self.shorter, width)) if self.view == "whole" else None


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
