"""Bytes to images, and a count of those that are none."""

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

__all__ = ["UNREADABLE", "BadImages", "decode", "to_8_bit", "opened", "read_image", "reduced_side"]

# what Pillow raises for files that are no image, are cut off, or would fill the memory
UNREADABLE = (OSError, ValueError, SyntaxError, EOFError, Image.DecompressionBombError)


def to_8_bit(image: Image.Image) -> Image.Image:
    """An image of 16 bits in grey as one of 8, where Pillow would clip; any other as it is. Fractions are refused."""
    if image.mode == "F":
        raise InputError("its values are fractions, and nothing says which of them is white: save it in 8 or 16 bits")
    if not image.mode.startswith("I"):
        return image
    return Image.fromarray((np.clip(np.asarray(image), 0, 65535) >> 8).astype(np.uint8))


def decode(source: bytes | BinaryIO, at_least: int | None = None) -> Image.Image:
    """The RGB image in a file.

    Pillow's decoder, because torchvision's gives the same pixels and is slower once they have become an image again
    (`studies/timing/loading.py` measures both).

    Args:
        source: a file's content, or the open file, which is closed.
        at_least: decode a JPEG at 1/2, 1/4 or 1/8 of its size if no side falls below this many pixels. That is
            faster and the pixels differ.
    """
    with io.BytesIO(source) if isinstance(source, bytes) else source as file, Image.open(file) as image:
        if at_least is not None:
            image.draft("RGB", (at_least, at_least))
        return to_8_bit(image).convert("RGB")


@contextmanager
def opened(path: str | os.PathLike[str], kind: str = "image", *, bounded: bool = True) -> Iterator[Image.Image]:
    """Open a file with Pillow; only its header is read before its pixels are asked for.

    Args:
        path: a regular file. A FIFO or a device might never end.
        kind: what the file is called in messages.
        bounded: refuse images with more pixels than Pillow's own limit, `Image.MAX_IMAGE_PIXELS`.

    Raises:
        FileNotFoundError: there is no such file.
        InputError: it cannot be read as an image.
    """
    if not Path(path).is_file():
        if Path(path).exists():
            raise InputError(f"The {kind} {path} cannot be read: it is no regular file.")
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
        raise InputError(f"The {kind} {path} cannot be read ({reason}).") from error


def read_image(
    path: str | os.PathLike[str],
    mode: str = "RGB",
    *,
    upright: bool = True,
    max_pixels: int | None = None,
    at_least: int | None = None,
) -> Image.Image:
    """Read an image in a mode of Pillow's. CMYK, grey of 8 or 16 bits, palettes and transparency are converted.

    Args:
        upright: turn it as its EXIF tag says.
        max_pixels: decode no image with more pixels; None for Pillow's own limit.
        at_least: decode a JPEG above `max_pixels` at 1/2, 1/4 or 1/8 of its size, with no side below this many pixels.

    Raises:
        FileNotFoundError: there is no such file.
        InputError: it is no image, or too large.
    """
    with opened(path, bounded=max_pixels is None) as image:
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
    """The shortest side at which a crop of this share of a square's area still has `size` pixels a side."""
    return int(size / smallest_crop**0.5) + 1


class BadImages:
    """Counts the files that cannot be read, over all workers and epochs, and stops when they are too many.

    A file counts once however often it is met.
    """

    def __init__(self, limit: int) -> None:
        if limit < 0:
            raise InputError(f"max_bad_images must be 0 or more, got {limit}.")
        self.limit = limit
        # in shared memory: workers mark a place that the name decides, so that none needs a lock
        self._seen = torch.zeros(2**16, dtype=torch.uint8).share_memory_()

    def __len__(self) -> int:
        return int(self._seen.sum())

    def add(self, name: str, error: BaseException) -> None:
        """Count an unreadable file.

        Raises:
            InputError: if there are now more than `limit`.
        """
        place = zlib.crc32(name.encode()) % len(self._seen)
        if self._seen[place]:
            return
        self._seen[place] = 1
        reason = f"{type(error).__name__}: {error}"
        if len(self) > self.limit:
            raise InputError(
                f"{name} cannot be read as an image ({reason}). That makes {len(self)} such files, and max_bad_images "
                f"allows {self.limit}."
            ) from error
        warnings.warn(
            f"{name} cannot be read as an image ({reason}) and is skipped, {len(self)} of at most {self.limit}.",
            stacklevel=2,
        )
