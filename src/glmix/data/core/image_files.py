"""Files to pixels: photographs upright and in RGB whatever they are stored as, masks as the class ids they hold."""

import os

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageOps

from ...errors import InputError
from .decoding import opened, read_image

__all__ = ["read_ids", "read_upright", "upright_size"]

TURNED = (5, 6, 7, 8)  # the EXIF orientations that exchange width and height
ID_MODES = ("1", "L", "P", "I", "I;16", "I;16B", "I;16L")  # one number a pixel


def read_upright(path: str | os.PathLike[str]) -> Image.Image:
    """The image in RGB, turned as its EXIF tag says. CMYK, grey of 8 or 16 bits, palettes and transparency are read."""
    return read_image(path)


def upright_size(path: str | os.PathLike[str]) -> tuple[tuple[int, int], bool]:
    """(width, height) of the upright image, and whether its EXIF tag turns or mirrors it. Reads no pixels."""
    with opened(path, "image") as image:
        orientation = image.getexif().get(ExifTags.Base.Orientation, 1)
        width, height = image.size
        return ((height, width) if orientation in TURNED else (width, height)), orientation in range(2, 9)


def read_ids(path: str | os.PathLike[str]) -> NDArray[np.int32]:
    """(H, W): the number that a mask holds at each pixel, of a palette the index; turned as its own EXIF tag says."""
    with opened(path, "mask") as mask:
        if mask.mode not in ID_MODES:
            raise InputError(
                f"it is a picture in {mask.mode}, and a mask holds one class id a pixel: save it in grey (L) or with "
                "a palette (P), the id itself as the value"
            )
        return np.asarray(ImageOps.exif_transpose(mask)).astype(np.int32)
