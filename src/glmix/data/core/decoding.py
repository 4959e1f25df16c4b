"""Image decoding, and counting of unreadable image files."""

import io
import os
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
from PIL import Image, ImageOps

from ...errors import InputError

__all__ = ["UNREADABLE", "BadImages", "decode", "to_8_bit", "open_image", "read_image", "reduced_side"]

# Exceptions of Pillow for files that are not images, are damaged, or would use too much memory. Damaged AVIF, BLP and
# DDS files raise RuntimeError, NotImplementedError and ZeroDivisionError.
UNREADABLE = (
    *(OSError, ValueError, SyntaxError, EOFError, RuntimeError, ArithmeticError),
    Image.DecompressionBombError,
)


def to_8_bit(image: Image.Image) -> Image.Image:
    """Convert a 16-bit greyscale image to 8 bits, which Pillow would clip. Return other images unchanged.

    Raises:
        InputError: if the image has float values, whose range is unknown.
    """
    if image.mode == "F":
        raise InputError("it has float values of unknown range: save it with 8 or 16 bits per channel")
    if not image.mode.startswith("I"):
        return image
    return Image.fromarray((np.clip(np.asarray(image), 0, 65535) >> 8).astype(np.uint8))


def decode(source: bytes | BinaryIO, at_least: int | None = None, upright: bool = True) -> Image.Image:
    """Decode an image file to RGB with Pillow.

    The decoder of torchvision gives the same pixels but is slower if the result must be a Pillow image
    (`studies/timing/loading.py` measures both).

    Args:
        source: content of the file, or the open file, which is closed.
        at_least: decode a JPEG at 1/2, 1/4 or 1/8 of its size if no side gets shorter than this many pixels. This is
            faster, but the pixels differ.
        upright: apply the EXIF orientation.
    """
    with io.BytesIO(source) if isinstance(source, bytes) else source as file, Image.open(file) as image:
        if at_least is not None:
            image.draft("RGB", (at_least, at_least))
        if upright:
            ImageOps.exif_transpose(image, in_place=True)
        return to_8_bit(image).convert("RGB")


@contextmanager
def open_image(
    path: str | os.PathLike[str] | BinaryIO, kind: str = "image", *, bounded: bool = True
) -> Iterator[Image.Image]:
    """Open an image with Pillow, which reads only the header until the pixels are accessed.

    Args:
        path: a regular file, because reading a FIFO or a device might never end; or the content of a file.
        kind: name of the file type in error messages.
        bounded: refuse images with more pixels than Pillow's limit, `Image.MAX_IMAGE_PIXELS`.

    Raises:
        FileNotFoundError: if there is no such file.
        InputError: if the file cannot be read as an image.
    """
    name = f" {os.fspath(path)}" if isinstance(path, str | os.PathLike) else ""
    if isinstance(path, str | os.PathLike) and not Path(path).is_file():
        if Path(path).exists():
            raise InputError(f"The {kind} {path} cannot be read: it is not a regular file.")
        raise FileNotFoundError(f"There is no {kind} {path}.")
    limit = Image.MAX_IMAGE_PIXELS
    try:
        Image.MAX_IMAGE_PIXELS = limit if bounded else None
        try:
            image = Image.open(path)
        finally:
            Image.MAX_IMAGE_PIXELS = limit
        with image:
            yield image
    except UNREADABLE as error:
        reason = str(error) if isinstance(error, InputError) else f"{type(error).__name__}: {error}"
        raise InputError(f"The {kind}{name} cannot be read ({reason}).") from error


def read_image(
    path: str | os.PathLike[str] | BinaryIO,
    mode: str = "RGB",
    *,
    upright: bool = True,
    max_pixels: int | None = None,
    at_least: int | None = None,
) -> Image.Image:
    """Read an image and convert it to a mode of Pillow.

    CMYK, 8-bit and 16-bit greyscale, palette and transparent images are supported.

    Args:
        path: image file, or its content.
        mode: mode of Pillow.
        upright: apply the EXIF orientation.
        max_pixels: refuse images with more pixels; None for Pillow's limit.
        at_least: decode a JPEG with more than `max_pixels` at 1/2, 1/4 or 1/8 of its size, with no side shorter than
            this many pixels.

    Raises:
        FileNotFoundError: if there is no such file.
        InputError: if the file is not an image, or is too large.
    """
    with open_image(path, bounded=max_pixels is None) as image:
        width, height = image.size
        if max_pixels is not None and image.width * image.height > max_pixels and at_least is not None:
            image.draft(None, (at_least, at_least))
        if max_pixels is not None and image.width * image.height > max_pixels:
            raise InputError(f"it has {width} x {height} pixels, and at most {max_pixels:,} are accepted")
        if upright:
            ImageOps.exif_transpose(image, in_place=True)
        image.load()
        image = to_8_bit(image)
        return image if image.mode == mode else image.convert(mode)


def reduced_side(size: int, smallest_crop: float) -> int:
    """Return the shortest image side at which a crop of this fraction of a square's area has sides of `size` pixels."""
    return int(size / smallest_crop**0.5) + 1


class BadImages:
    """Counter of unreadable files over all workers and epochs. Each file counts once.

    Args:
        limit: number of unreadable files to skip. One more is an error.
    """

    def __init__(self, limit: int) -> None:
        if limit < 0:
            raise InputError(f"max_bad_images must be 0 or more, got {limit}.")
        self.limit = limit
        # A table in shared memory, indexed by a hash of the file name: workers set entries without a lock.
        self._seen = torch.zeros(2**16, dtype=torch.uint8).share_memory_()

    def __len__(self) -> int:
        return int(self._seen.sum())

    def add(self, name: str, error: BaseException) -> None:
        """Count an unreadable file and warn.

        Raises:
            InputError: if there are now more than `limit` unreadable files.
        """
        slot = zlib.crc32(name.encode()) % len(self._seen)
        if self._seen[slot]:
            return
        self._seen[slot] = 1
        reason = f"{type(error).__name__}: {error}"
        if len(self) > self.limit:
            raise InputError(
                f"{name} cannot be read as an image ({reason}). There are {len(self)} unreadable files, but "
                f"max_bad_images allows {self.limit}."
            ) from error
        warnings.warn(
            f"{name} cannot be read as an image ({reason}) and is skipped, {len(self)} of at most {self.limit}.",
            stacklevel=2,
        )
