"""Large images in windows, with memory that does not depend on their size: `.npy` and TIFF files, and label maps."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ...errors import InputError, MissingExtraError
from .arrays import DAMAGED, NPY, TIFF

__all__ = ["ImageWindows", "open_windows", "write_label_map"]

GEO_TAGS = (33550, 33922, 34264, 34735, 34736, 34737)  # the TIFF tags that georeference an image
TILE = 256  # side of the tiles of label maps
MAX_SEGMENT = 1 << 26  # bytes of the largest tile or strip that is decoded for a window
MIN_IS_BLACK, RGB, YCBCR = 1, 2, 6  # photometric interpretations of TIFF files


class ImageWindows:
    """An image file that is read in windows; see `open_windows`. It holds no open file and can be pickled.

    Args:
        path: a `.npy` or TIFF file.
        shape: (3, H, W), the shape of the whole image as a tensor.
        bits: bits per value in the file, 8 or 16.
    """

    def __init__(self, path: Path, shape: tuple[int, int, int], bits: int) -> None:
        self.path, self.shape, self.bits = path, shape, bits

    def read(self, top: int, left: int, height: int, width: int) -> Tensor:
        """Return the pixels of a window (3, height, width), uint8.

        Raises:
            InputError: the file is damaged, or has a compression that tifffile cannot decode.
        """
        try:
            pixels = self._pixels(top, left, height, width)
        except (*DAMAGED, OSError, ValueError) as error:
            raise InputError(f"The image {self.path} cannot be read ({type(error).__name__}: {error}).") from error
        if pixels.dtype == np.uint16:
            pixels = (pixels >> 8).astype(np.uint8)
        pixels = pixels[..., :3] if pixels.shape[2] >= 3 else pixels[..., :1].repeat(3, 2)
        return torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1)))

    def geo_tags(self) -> list[tuple[int, int, int, Any, bool]]:
        """Return the georeferencing tags of a GeoTIFF in the format of tifffile's `extratags`."""
        if not _starts_with(self.path, TIFF):
            return []
        with _tifffile().TiffFile(self.path) as tiff:
            found = (tiff.pages[0].tags.get(code) for code in GEO_TAGS)
            return [(tag.code, tag.dtype, tag.count, tag.value, True) for tag in found if tag is not None]

    def _pixels(self, top: int, left: int, height: int, width: int) -> NDArray[Any]:
        """Return a window (height, width, C)."""
        if not _starts_with(self.path, TIFF):
            # a new memory map each time, because the pages of an old one would stay in memory
            array = np.load(self.path, mmap_mode="r", allow_pickle=False)
            window = np.array(array[top : top + height, left : left + width])
            return window if window.ndim == 3 else window[..., None]
        with _tifffile().TiffFile(self.path) as tiff:
            page = tiff.pages[0]
            rows, columns = _segment_size(page)
            planes = page.samplesperpixel if page.planarconfig == 2 else 1
            across, down = -(-page.imagewidth // columns), -(-page.imagelength // rows)
            window = np.zeros((height, width, page.samplesperpixel), page.dtype)
            for plane in range(planes):
                into = window[..., plane : plane + 1] if planes > 1 else window
                for y in range(top // rows, -(-(top + height) // rows)):
                    for x in range(left // columns, -(-(left + width) // columns)):
                        number = (plane * down + y) * across + x
                        segment = _read_segment(tiff, page, number)
                        if segment is not None:
                            _paste(into, segment, y * rows - top, x * columns - left)
            return window


def open_windows(path: Path) -> ImageWindows | None:
    """Open an image file for reading in windows.

    Args:
        path: `.npy` files hold (H, W, C) or (H, W), and TIFF files grey levels or RGB, both uint8 or uint16. TIFF files
            must be stored in tiles or short strips.

    Returns:
        The image; None for all other files.

    Raises:
        MissingExtraError: for a TIFF file, if tifffile is not installed.
        InputError: the file is damaged.
    """
    if not path.is_file():
        return None
    try:
        if _starts_with(path, (NPY,)):
            array = np.load(path, mmap_mode="r", allow_pickle=False)
            shape, dtype = (*array.shape, 1)[:3], array.dtype
            readable = array.ndim in (2, 3) and shape[2] in (1, 3, 4)
        elif _starts_with(path, TIFF):
            with _tifffile().TiffFile(path) as tiff:
                page = tiff.pages[0]
                shape, dtype = (page.imagelength, page.imagewidth, page.samplesperpixel), page.dtype
                rows, columns = _segment_size(page)
                small = rows * columns * page.samplesperpixel * dtype.itemsize <= MAX_SEGMENT
                upright = "Orientation" not in page.tags or page.tags["Orientation"].value == 1
                readable = small and upright and page.photometric in (MIN_IS_BLACK, RGB, YCBCR)
        else:
            return None
    except (*DAMAGED, OSError, ValueError) as error:
        raise InputError(f"The image {path} cannot be read ({type(error).__name__}: {error}).") from error
    if not readable or dtype not in (np.uint8, np.uint16):
        return None
    return ImageWindows(path, (3, int(shape[0]), int(shape[1])), 8 * dtype.itemsize)


def write_label_map(
    path: Path,
    rows: Iterable[NDArray[np.uint8]],
    size: tuple[int, int],
    colours: NDArray[np.uint8],
    tags: list[tuple[int, int, int, Any, bool]] | None = None,
) -> None:
    """Write a label map as a compressed TIFF file in tiles, with a palette.

    Args:
        path: the file.
        rows: the label map from top to bottom, in parts (any number of rows, W).
        size: (H, W).
        colours: RGB colour per class (K, 3).
        tags: further tags; see `ImageWindows.geo_tags`.
    """
    palette = np.zeros((3, 256), np.uint16)
    palette[:, : len(colours)] = colours.T.astype(np.uint16) * 257
    _tifffile().imwrite(
        path,
        _tiles(rows),
        shape=size,
        dtype=np.uint8,
        tile=(TILE, TILE),
        photometric="palette",
        colormap=palette,
        compression="zlib",
        extratags=tags or (),
    )


def _tiles(rows: Iterable[NDArray[np.uint8]]) -> Iterator[NDArray[np.uint8]]:
    """Cut parts (any number of rows, W) of an array into tiles, padded at the right and bottom."""
    waiting: NDArray[np.uint8] | None = None
    for part in rows:
        waiting = part if waiting is None else np.concatenate([waiting, part])
        while len(waiting) >= TILE:
            yield from _row_of_tiles(waiting[:TILE])
            waiting = waiting[TILE:]
    if waiting is not None and len(waiting):
        yield from _row_of_tiles(waiting)


def _row_of_tiles(rows: NDArray[np.uint8]) -> Iterator[NDArray[np.uint8]]:
    padded = np.pad(rows, ((0, TILE - len(rows)), (0, -rows.shape[1] % TILE)))
    for left in range(0, padded.shape[1], TILE):
        yield np.ascontiguousarray(padded[:, left : left + TILE])


def _segment_size(page: Any) -> tuple[int, int]:
    """Return the height and width of the tiles or strips of a page."""
    if page.is_tiled:
        return int(page.tilelength), int(page.tilewidth)
    return min(int(page.rowsperstrip) or int(page.imagelength), int(page.imagelength)), int(page.imagewidth)


def _read_segment(tiff: Any, page: Any, number: int) -> NDArray[Any] | None:
    """Return a decoded tile or strip (h, w, C); None for one that is not stored."""
    where = [page.dataoffsets[number]], [page.databytecounts[number]]
    ((content, _),) = tiff.filehandle.read_segments(*where)
    segment, _, _ = page.decode(content, number, jpegtables=page.jpegtables, jpegheader=page.jpegheader)
    return None if segment is None else segment[0]


def _paste(window: NDArray[Any], segment: NDArray[Any], top: int, left: int) -> None:
    """Copy the part of a segment (h, w, C) that is inside of a window (H, W, C)."""
    y, x = max(top, 0), max(left, 0)
    bottom, right = min(top + segment.shape[0], window.shape[0]), min(left + segment.shape[1], window.shape[1])
    if y < bottom and x < right:
        window[y:bottom, x:right] = segment[y - top : bottom - top, x - left : right - left]


def _starts_with(path: Path, beginnings: tuple[bytes, ...]) -> bool:
    with path.open("rb") as file:
        return file.read(8).startswith(beginnings)


def _tifffile() -> Any:
    try:
        import tifffile
    except ImportError as error:
        raise MissingExtraError("Large TIFF images need tifffile: pip install tifffile") from error
    return tifffile
