"""An image as a model takes it, and as a person is shown it: the same field of view, sharper where there is more."""

import base64
from io import BytesIO
from typing import Any

import timm
from PIL import Image, ImageOps
from torch import Tensor, nn

from ...errors import InputError

__all__ = ["data_uri", "prepare"]

SHARPEST = 720  # pixels: what a shown picture's longer side may have
PIXEL_ART = 128  # pixels: pictures whose longer side is no longer are enlarged without smoothing


def prepare(image: Image.Image, model: nn.Module, size: tuple[int, int] | None) -> tuple[Tensor, Image.Image]:
    """The batch of one that `model` takes, and what it shows.

    Args:
        size: rows and columns that the whole image is brought to; None for the model's own size, and its own crop.
    """
    config = dict(timm.data.resolve_model_data_config(model))
    channels = getattr(model, "in_chans", config["input_size"][0])
    if channels not in (1, 3):
        raise InputError(f"Images are shown to models of 1 or 3 channels, and this one takes {channels}.")
    image = ImageOps.exif_transpose(image).convert("L" if channels == 1 else "RGB")
    config["input_size"] = (channels, *(config["input_size"][1:] if size is None else size))
    if size is not None:
        config |= {"crop_pct": 1.0, "crop_mode": "squash"}
    if channels == 1:
        config |= {name: (sum(config[name]) / len(config[name]),) for name in ("mean", "std")}
    images: Tensor = _transform(config)(image).unsqueeze(0)
    return images, _transform(_enlarged(config, image), raw=True)(image)


def _transform(config: dict[str, Any], raw: bool = False) -> Any:
    """timm's transform for evaluation; `raw`: up to the picture that would be made a tensor."""
    transform = timm.data.create_transform(**config, is_training=False)
    if raw:
        transform.transforms = [step for step in transform.transforms if "Tensor" not in type(step).__name__][:-1]
    return transform


def _enlarged(config: dict[str, Any], image: Image.Image) -> dict[str, Any]:
    """The same field of view, up to a pixel at its edges, in as many pixels as the image has and a page can use."""
    channels, height, width = config["input_size"]
    by_image = min(image.height / height, image.width / width) * config["crop_pct"]
    times = max(1.0, min(by_image, SHARPEST / max(height, width)))
    return {**config, "input_size": (channels, round(times * height), round(times * width))}


def data_uri(picture: Image.Image) -> dict[str, Any]:
    """The picture inside the page: small ones exactly, larger ones as JPEG."""
    exact = max(picture.size) <= PIXEL_ART
    file = BytesIO()
    if exact:
        picture.save(file, "PNG", optimize=True)
    else:
        picture.save(file, "JPEG", quality=88, optimize=True)
    kind = "png" if exact else "jpeg"
    uri = f"data:image/{kind};base64,{base64.b64encode(file.getvalue()).decode('ascii')}"
    return {"uri": uri, "width": picture.width, "height": picture.height, "pixelated": exact}
