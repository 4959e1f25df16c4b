"""Bytes to images, and a count of those that are none."""

import io
import warnings
import zlib
from typing import BinaryIO

import numpy as np
import torch
from PIL import Image

from ..errors import InputError

__all__ = ["UNREADABLE", "BadImages", "decode", "eight_bits", "reduced_side"]

# what Pillow raises for files that are no image, are cut off, or would fill the memory
UNREADABLE = (OSError, ValueError, SyntaxError, EOFError, Image.DecompressionBombError)


def eight_bits(image: Image.Image) -> Image.Image:
    """An image of 16 bits in grey as one of 8, where Pillow would clip; any other as it is. Fractions are refused."""
    if image.mode == "F":
        raise InputError("its values are fractions, and nothing says which of them is white: save it in 8 or 16 bits")
    if not image.mode.startswith("I"):
        return image
    return Image.fromarray((np.clip(np.asarray(image), 0, 65535) >> 8).astype(np.uint8))


def decode(source: bytes | BinaryIO, at_least: int | None = None) -> Image.Image:
    """The RGB image in a file.

    Pillow's decoder, because torchvision's gives the same pixels and is slower once they have become an image again
    (`benchmarks/loading.py` measures both).

    Args:
        source: a file's content, or the open file, which is closed.
        at_least: decode a JPEG at 1/2, 1/4 or 1/8 of its size if no side falls below this many pixels. That is
            faster and the pixels differ.
    """
    with io.BytesIO(source) if isinstance(source, bytes) else source as file, Image.open(file) as image:
        if at_least is not None:
            image.draft("RGB", (at_least, at_least))
        return eight_bits(image).convert("RGB")


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
