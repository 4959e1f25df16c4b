"""Conversion of an image to model input, and to a picture of the same field of view for display."""

import base64
from io import BytesIO
from typing import Any

import timm
from PIL import Image
from torch import Tensor, nn

from ...data.classification.views import input_config, model_input, upright

__all__ = ["data_uri", "prepare"]

MAX_PICTURE_SIDE = 720  # maximum of the longer side of a displayed picture in pixels
MAX_UNSMOOTHED_SIDE = 128  # pictures up to this longer side in pixels are enlarged without smoothing


def prepare(image: Image.Image, model: nn.Module, size: tuple[int, int] | None) -> tuple[Tensor, Image.Image]:
    """Return the input batch of one image for `model`, and a picture of the same field of view.

    Args:
        image: an image of any size and mode.
        model: the model.
        size: height and width to which the whole image is resized. None: the model's own size and centre crop.

    Returns:
        The model input (1, C, H, W) and the picture.
    """
    images = model_input(image, model, size).unsqueeze(0)
    config = input_config(model, size)
    image = upright(image, config["input_size"][0])
    return images, _picture_transform(_enlarged(config, image))(image)


def _picture_transform(config: dict[str, Any]) -> Any:
    """Return timm's evaluation transform without the conversion to a tensor."""
    transform = timm.data.create_transform(**config, is_training=False)
    transform.transforms = [step for step in transform.transforms if "Tensor" not in type(step).__name__][:-1]
    return transform


def _enlarged(config: dict[str, Any], image: Image.Image) -> dict[str, Any]:
    """Return a data configuration with the same field of view at the resolution of the image, up to a limit."""
    channels, height, width = config["input_size"]
    by_image = min(image.height / height, image.width / width) * config["crop_pct"]
    times = max(1.0, min(by_image, MAX_PICTURE_SIDE / max(height, width)))
    return {**config, "input_size": (channels, round(times * height), round(times * width))}


def data_uri(picture: Image.Image) -> dict[str, Any]:
    """Encode a picture as a data URI: small pictures as PNG, larger ones as JPEG."""
    exact = max(picture.size) <= MAX_UNSMOOTHED_SIDE
    file = BytesIO()
    if exact:
        picture.save(file, "PNG", optimize=True)
    else:
        picture.save(file, "JPEG", quality=88, optimize=True)
    kind = "png" if exact else "jpeg"
    uri = f"data:image/{kind};base64,{base64.b64encode(file.getvalue()).decode('ascii')}"
    return {"uri": uri, "width": picture.width, "height": picture.height, "pixelated": exact}
