"""Decoding of images with any number of channels: TIFF, `.npy` and 16-bit files.

H, W  height and width      C  channels
"""

import io
import os
import struct
import zlib
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from ...errors import InputError, MissingExtraError
from .decoding import UNREADABLE

__all__ = ["ARRAY_SUFFIXES", "decode_array", "needs_array", "preview", "read_array", "unit_range"]

ARRAY_SUFFIXES = (".npy", ".tif", ".tiff")
NPY = b"\x93NUMPY"
TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_PILLOW_MODES = {1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}
# exceptions of tifffile and its decoders for damaged files; the others are ValueErrors
DAMAGED = (struct.error, zlib.error, LookupError, TypeError, ArithmeticError, AttributeError, RuntimeError)


def needs_array(source: str | os.PathLike[str] | BinaryIO, channels: int) -> bool:
    """Return whether an image must be read with `read_array`, and not with Pillow as 8-bit greyscale or RGB.

    Args:
        source: image file, or its content.
        channels: number of channels that the model takes.
    """
    if channels not in (1, 3):
        return True
    if isinstance(source, str | os.PathLike):
        if not Path(source).is_file():
            return False
        with Path(source).open("rb") as file:
            return needs_array(file, channels)
    head = source.read(8)
    source.seek(0)
    if not head.startswith(TIFF):
        return head.startswith(NPY)
    try:
        return Image.open(source).mode not in ("1", "L", "P", "RGB", "RGBA", "CMYK")
    except UNREADABLE:  # Pillow cannot read TIFF files with several channels of 16 bits
        return True
    finally:
        source.seek(0)


def read_array(source: str | os.PathLike[str] | BinaryIO, channels: int, max_pixels: int | None = None) -> NDArray[Any]:
    """Read an image file, or its content, with `decode_array`.

    Raises:
        InputError: if there is no such file, or it cannot be read as an image with this number of channels.
    """
    name = f" {os.fspath(source)}" if isinstance(source, str | os.PathLike) else ""
    if isinstance(source, str | os.PathLike) and not Path(source).is_file():
        raise InputError(f"There is no image{name}.")
    try:
        content = Path(source).read_bytes() if isinstance(source, str | os.PathLike) else source
        return decode_array(content, channels, max_pixels)
    except UNREADABLE as error:
        reason = str(error) if isinstance(error, InputError) else f"{type(error).__name__}: {error}"
        raise InputError(f"The image{name} cannot be read ({reason}).") from error


def decode_array(source: bytes | BinaryIO, channels: int, max_pixels: int | None = None) -> NDArray[Any]:
    """Decode an image to an array (H, W, C) with the data type of the file.

    `.npy` files hold (H, W, C), or (H, W) for one channel. TIFF files may also hold their channels first, or as pages.
    All other formats are read with Pillow: 1 channel is greyscale with 8 or 16 bits, 2 are greyscale and transparency,
    3 are RGB and 4 RGB and transparency.

    Args:
        source: content of the file, or the open file, which is closed.
        channels: number of channels C.
        max_pixels: refuse images with more pixels; None for Pillow's limit.

    Raises:
        InputError: if the image has another number of channels, too many pixels, or values that are not finite.
        MissingExtraError: for a TIFF file, if tifffile is not installed.
        OSError, ValueError: if the file is damaged.
    """
    with io.BytesIO(source) if isinstance(source, bytes) else source as file:
        head = file.read(8)
        file.seek(0)
        limit = max_pixels if max_pixels is not None else 2 * (Image.MAX_IMAGE_PIXELS or 2**62)
        if head.startswith(NPY):
            array = _decode_npy(file, channels, limit)
        elif head.startswith(TIFF):
            array = _decode_tiff(file, channels, limit)
        else:
            array = _decode_other(file, channels, limit)
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise InputError("it has values that are not finite")
    return array


def unit_range(array: NDArray[Any]) -> Tensor:
    """Return an image (H, W, C) as float32 (C, H, W). Values of 8 and 16 bits without sign are scaled to 0 to 1."""
    scale = {"uint8": 255.0, "uint16": 65535.0}.get(array.dtype.name, 1.0)
    pixels = np.ascontiguousarray(array.transpose(2, 0, 1), dtype=np.float32)
    return torch.from_numpy(pixels).div_(scale)


def preview(array: NDArray[Any]) -> Image.Image:
    """Return an image (H, W, C) as an 8-bit image to look at: its first three channels, or else the first one.

    The values of each channel from the 2nd to the 98th percentile are stretched to the full range.
    """
    values = array[..., :3] if array.shape[2] >= 3 else array[..., 0]
    low, high = np.percentile(values, (2, 98), axis=(0, 1))
    unit = (values - low) / np.maximum(high - low, np.finfo(np.float32).tiny)
    return Image.fromarray((255 * unit.clip(0, 1)).round().astype(np.uint8))


def _check_shape(shape: tuple[int, ...], channels: int, limit: int, *, channels_first: bool = False) -> bool:
    """Check the shape of an image. Return whether its channels come first."""
    if len(shape) == 2 and channels == 1:
        shape = (*shape, 1)
    first = len(shape) == 3 and channels_first and shape[2] != channels
    found = shape[0 if first else -1] if len(shape) == 3 else 0
    if found != channels:
        raise InputError(
            f"it has the shape {shape}, but (height, width, {channels}) is expected for {channels} channels"
        )
    pixels = int(np.prod(shape, dtype=object)) // channels
    if not 0 < pixels <= limit:
        raise InputError(f"it has {pixels:,} pixels, and at most {limit:,} are accepted")
    return first


def _hwc(array: NDArray[Any], first: bool) -> NDArray[Any]:
    array = array[..., None] if array.ndim == 2 else array.transpose(1, 2, 0) if first else array
    if array.dtype.kind not in "buif":
        raise InputError(f"it has values of type {array.dtype}, but numbers are expected")
    return array


def _decode_npy(file: BinaryIO, channels: int, limit: int) -> NDArray[Any]:
    version = np.lib.format.read_magic(file)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, _, dtype = read(file)
    if dtype.hasobject:
        raise InputError("it has Python objects instead of numbers")
    _check_shape(shape, channels, limit)
    file.seek(0)
    return _hwc(np.load(file, allow_pickle=False), False)


def _decode_tiff(file: BinaryIO, channels: int, limit: int) -> NDArray[Any]:
    try:
        import tifffile
    except ImportError as error:
        raise MissingExtraError(
            f"TIFF images with any number of channels need {error.name}: pip install tifffile"
        ) from error
    try:
        with tifffile.TiffFile(file) as tiff:
            series = tiff.series[0]
            first = _check_shape(tuple(series.shape), channels, limit, channels_first=True)
            return _hwc(series.asarray(), first)
    except DAMAGED as error:
        raise InputError(f"the TIFF file is damaged ({type(error).__name__}: {error})") from error


def _decode_other(file: BinaryIO, channels: int, limit: int) -> NDArray[Any]:
    if channels not in _PILLOW_MODES:
        raise InputError(f"only TIFF and .npy files can have {channels} channels")
    with Image.open(file) as image:
        if image.width * image.height > limit:
            raise InputError(f"it has {image.width * image.height:,} pixels, and at most {limit:,} are accepted")
        if image.mode.startswith("I") and channels == 1:  # 16 bits; Pillow opens some files in the 32-bit mode I
            return np.asarray(image).astype(np.uint16)[..., None]
        mode = _PILLOW_MODES[channels]
        array = np.asarray(image if image.mode == mode else image.convert(mode))
        return array[..., None] if channels == 1 else array
