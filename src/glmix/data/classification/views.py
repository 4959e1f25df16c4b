"""Classifier input: the centre crop of the evaluation transform, or the whole image."""

import math
from collections.abc import Callable
from typing import Any, Literal

import timm
from numpy.typing import NDArray
from PIL import Image, ImageOps
from torch import Tensor, nn

from ...errors import InputError
from ..core.decoding import to_8_bit
from .channels import array_input

__all__ = [
    "VIEW_NAMES",
    "View",
    "array_model_input",
    "class_probabilities",
    "describe_view",
    "input_config",
    "label_names",
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


def array_model_input(array: NDArray[Any], model: nn.Module, size: tuple[int, int] | None = None) -> Tensor:
    """Return the normalised input tensor (C, H, W) of a model for an image (H, W, C) with any number of channels.

    Args:
        array: image with the channels of the model, from `decode_array`.
        model: any model of timm.
        size: height and width to resize the whole image to; None for the input size and centre crop of the model.
    """
    config = input_config(model, size)
    crop_pct = config["crop_pct"] if size is None else None
    return array_input(array, config["input_size"][1:], config["mean"], config["std"], crop_pct=crop_pct)


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


def label_names(model: Any) -> Callable[[int], str]:
    """Return a function from class index to class name of a GLNet.

    The names are those of the model if it has any, else those of ImageNet for 1000 classes, else "class INDEX".
    """
    from timm.data import ImageNetInfo

    names = model.pretrained_cfg.get("label_names")
    if names:
        return lambda index: names[index]
    if model.num_classes == 1000:
        return ImageNetInfo().index_to_description
    return lambda index: f"class {index}"
