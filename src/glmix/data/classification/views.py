"""The part of an image that a classifier is given: the centre crop of its evaluation transform, or the whole image."""

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
    """Return timm's data configuration of the evaluation transform of a model.

    Args:
        model: any model of timm's.
        size: height and width to which the whole image is resized. None: the model's own size and centre crop.

    Raises:
        InputError: the model takes neither grey nor RGB images.
    """
    config = dict(timm.data.resolve_model_data_config(model))
    channels = getattr(model, "in_chans", config["input_size"][0])
    if channels not in (1, 3):
        raise InputError(f"Images are shown to models of 1 or 3 channels, and this one takes {channels}.")
    config["input_size"] = (channels, *(config["input_size"][1:] if size is None else size))
    if size is not None:
        config |= {"crop_pct": 1.0, "crop_mode": "squash"}
    if channels == 1:
        config |= {name: (sum(config[name]) / len(config[name]),) for name in ("mean", "std")}
    return config


def shorter_side(model: nn.Module, view: View) -> int:
    """Return to how many pixels the shorter side of an image is resized for a view, before any cropping."""
    config = input_config(model)
    if view == "whole":
        return min(config["input_size"][1:])
    return math.ceil(max(config["input_size"][1:]) / config["crop_pct"])


def whole_size(image: Image.Image, model: nn.Module, shorter: int | None = None) -> tuple[int, int]:
    """Return the height and width at which a model sees a whole upright image, aspect ratio kept.

    Args:
        shorter: pixels of the shorter side. None: the shorter side of the model's own input size.
    """
    if shorter is None:
        shorter = min(timm.data.resolve_model_data_config(model)["input_size"][1:])
    factor = shorter / min(image.size)
    return max(shorter, round(image.height * factor)), max(shorter, round(image.width * factor))


def upright(image: Image.Image, channels: int) -> Image.Image:
    """Turn an image as its EXIF tag says and convert it to 8 bits, grey for 1 channel and RGB for 3."""
    return to_8_bit(ImageOps.exif_transpose(image)).convert("L" if channels == 1 else "RGB")


def model_input(image: Image.Image, model: nn.Module, size: tuple[int, int] | None = None) -> Tensor:
    """Return the normalised tensor (C, H, W) that a model takes; `size` as in `input_config`."""
    config = input_config(model, size)
    pixels: Tensor = timm.data.create_transform(**config, is_training=False)(upright(image, config["input_size"][0]))
    return pixels


def describe_view(view: View | None, size: tuple[int, int]) -> str:
    """Say a view and its size (height, width) in words, width first: "whole image, 336 x 224 pixels".

    Args:
        view: None leaves it out.
    """
    height, width = size
    pixels = f"{width} x {height} pixels"
    return pixels if view is None else f"{VIEW_NAMES[view]}, {pixels}"
