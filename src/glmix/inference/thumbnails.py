"""Thumbnails of the images of a collection, and the outline of a part of an image on them."""

import base64
import io
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from ..data.core.decoding import open_image, to_8_bit
from ..errors import InputError
from .sources import Files, Source

__all__ = ["Part", "Thumbnails", "draw_part", "jpeg_uri"]

OUTLINE = (255, 179, 71)


class Thumbnails:
    """Reader of thumbnails by the keys of stored results.

    Args:
        source: the source that the results were computed from; None to read keys as paths and URLs.
    """

    def __init__(self, source: Source | None = None) -> None:
        self._source = source
        self._places = {} if source is None else {source.key(index): index for index in range(len(source))}

    def __call__(self, key: str, size: int) -> Image.Image | None:
        """Return an upright RGB thumbnail with no side longer than `size`, or None if the image cannot be read."""
        source, place = (Files([key]), 0) if self._source is None else (self._source, self._places.get(key))
        if place is None:
            return None
        try:
            with open_image(source.read(place)) as image:
                image.draft(None, (size, size))  # decode a JPEG at a fraction of its size
                ImageOps.exif_transpose(image, in_place=True)
                thumbnail = to_8_bit(image).convert("RGB")
        except (InputError, OSError):
            return None
        thumbnail.thumbnail((size, size))
        return thumbnail


@dataclass(frozen=True, eq=False)
class Part:
    """A part of an image.

    Args:
        mask: pixels of a grid (h, w) that belong to the part.
        region: region of the image that the grid covers: left, top, right, bottom in pixels of the image.
        size: (width, height) of the image.
    """

    mask: NDArray[np.bool_]
    region: tuple[float, float, float, float]
    size: tuple[int, int]


def draw_part(thumbnail: Image.Image, part: Part) -> Image.Image:
    """Return a thumbnail with a part outlined and the rest darkened."""
    factors = [side / whole for side, whole in zip(thumbnail.size, part.size, strict=True)] * 2
    left, top, right, bottom = (value * factor for value, factor in zip(part.region, factors, strict=True))
    rows, cols = part.mask.shape
    ys = np.floor((np.arange(thumbnail.height) + 0.5 - top) / (bottom - top) * rows).astype(int)
    xs = np.floor((np.arange(thumbnail.width) + 0.5 - left) / (right - left) * cols).astype(int)
    inside = ((ys >= 0) & (ys < rows))[:, None] & ((xs >= 0) & (xs < cols))
    mask = part.mask[ys.clip(0, rows - 1)][:, xs.clip(0, cols - 1)] & inside
    padded = np.pad(mask, 1)
    core = padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
    pixels = np.asarray(thumbnail).astype(np.float32)
    pixels[~mask] *= 0.45
    padded = np.pad(mask & ~core, 1)  # two pixels wide
    edge = mask & (padded[:-2, 1:-1] | padded[2:, 1:-1] | padded[1:-1, :-2] | padded[1:-1, 2:] | padded[1:-1, 1:-1])
    pixels[edge] = OUTLINE
    return Image.fromarray(pixels.astype(np.uint8))


def jpeg_uri(image: Image.Image, quality: int = 80) -> str:
    """Return an image as a data URI."""
    content = io.BytesIO()
    image.save(content, "JPEG", quality=quality, optimize=True)
    return f"data:image/jpeg;base64,{base64.b64encode(content.getvalue()).decode()}"
