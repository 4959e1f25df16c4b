"""Reading of images as upright RGB images, and of mask files as class ids."""

import os
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageOps
from torch import Tensor
from torchvision.transforms.v2.functional import pil_to_tensor

from ...errors import InputError
from .arrays import needs_array
from .decoding import open_image, read_image
from .windows import ImageWindows, open_windows

__all__ = ["ImageReader", "as_image", "read_ids", "read_upright", "upright_size"]

SWAPPED_ORIENTATIONS = (5, 6, 7, 8)  # EXIF orientations that swap width and height
ID_MODES = ("1", "L", "P", "I", "I;16", "I;16B", "I;16L")  # modes with one value per pixel


def as_image(source: str | os.PathLike[str] | Image.Image | NDArray[np.uint8]) -> Image.Image:
    """Return an image in RGB.

    Args:
        source: a file, whose EXIF orientation is applied; a Pillow image; or pixels (H, W, 3) or (H, W) of type uint8.

    Raises:
        FileNotFoundError: there is no such file.
        InputError: the file is not an image, or the array has another shape or type.
    """
    if isinstance(source, Image.Image):
        return source.convert("RGB")
    if not isinstance(source, np.ndarray):
        return read_image(source)
    if source.dtype != np.uint8 or source.ndim not in (2, 3) or source.shape[2:] not in ((), (3,)):
        raise InputError(f"Pixels must be uint8 (H, W, 3) or (H, W), got {source.dtype} {source.shape}.")
    return Image.fromarray(source).convert("RGB")


class ImageReader:
    """Reader of upright RGB images as tensors, for inference in worker processes.

    Args:
        max_pixels: maximum number of pixels of an image.
        windows_above: read files with more pixels in windows, where `open_windows` can; None reads only whole images.
    """

    def __init__(self, max_pixels: int, windows_above: int | None = None) -> None:
        self.max_pixels, self.windows_above = max_pixels, windows_above

    def __call__(self, source: Path | BinaryIO) -> tuple[Tensor | ImageWindows, tuple[int, int]]:
        """Return an image file, or its content, and its (width, height).

        Returns:
            The pixels (3, H, W), uint8, or the file for reading in windows, and the (width, height).

        Raises:
            FileNotFoundError: there is no such file.
            InputError: the file is not an image, or is too large.
        """
        windows = open_windows(source) if isinstance(source, Path) else None
        if windows is not None:
            _, height, width = windows.shape
            if self.windows_above is not None and height * width > self.windows_above:
                try:
                    windows.read(0, 0, 1, 1)
                    return windows, (width, height)
                except InputError:  # Pillow can decode some compressions that tifffile cannot
                    if height * width > self.max_pixels:
                        raise
            if (windows.bits == 16 or needs_array(source, 3)) and height * width <= self.max_pixels:
                return windows.read(0, 0, height, width), (width, height)
        image = read_image(source, max_pixels=self.max_pixels)
        return pil_to_tensor(image), image.size


def read_upright(path: str | os.PathLike[str]) -> Image.Image:
    """Return an image in RGB with its EXIF orientation applied; see `read_image` for the supported formats."""
    return read_image(path)


def upright_size(path: str | os.PathLike[str]) -> tuple[tuple[int, int], bool]:
    """Return (width, height) of the upright image and whether its EXIF orientation changes it, without decoding it."""
    with open_image(path, "image") as image:
        orientation = image.getexif().get(ExifTags.Base.Orientation, 1)
        width, height = image.size
        return ((height, width) if orientation in SWAPPED_ORIENTATIONS else (width, height)), orientation in range(2, 9)


def read_ids(path: str | os.PathLike[str]) -> NDArray[np.int32]:
    """Return the class ids (H, W) of a mask, for a palette image the indices, with its EXIF orientation applied."""
    with open_image(path, "mask") as mask:
        if mask.mode not in ID_MODES:
            raise InputError(
                f"its mode is {mask.mode}, but a mask needs one class id per pixel: save it as a greyscale (L) or "
                "palette (P) image with the ids as values"
            )
        return np.asarray(ImageOps.exif_transpose(mask)).astype(np.int32)
