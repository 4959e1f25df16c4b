"""Search for image files; reading of images as upright RGB images, and of mask files as class ids."""

import os
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageOps

from ...errors import InputError
from .decoding import open_image, read_image

__all__ = ["as_image", "find_images", "read_ids", "read_upright", "upright_size"]

SWAPPED_ORIENTATIONS = (5, 6, 7, 8)  # EXIF orientations that swap width and height
# suffixes of images that Pillow cannot decode, unless a plugin adds a decoder
OTHER_IMAGES = {
    *(".ai", ".avif", ".exr", ".heic", ".heif", ".hif", ".jxl", ".jxr", ".svg", ".svgz", ".webp", ".xcf"),
    *(".arw", ".cr2", ".cr3", ".dng", ".nef", ".orf", ".raf", ".rw2"),  # camera raw formats
}
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


def find_images(paths: Iterable[Path], errors: list[dict[str, str]], *, arrays: bool = False) -> dict[Path, Path]:
    """Find images in files and folders; folders are searched recursively for files with an image suffix.

    Args:
        paths: files and folders.
        errors: a list to which an entry is added for each image in an unsupported format and each folder without
            images.
        arrays: also find `.npy` files.

    Returns:
        {file: its path relative to the given folder, or its name if the file itself was given}
    """
    found: dict[Path, Path] = {}
    for path in paths:
        try:
            is_folder = path.is_dir()
        except OSError as error:  # for example a file name that is too long
            errors.append({"file": str(path), "error": error.strerror or str(error)})
            continue
        if not is_folder:
            found[path] = Path(path.name)
            continue
        inside = sorted(
            file
            for file in path.rglob("*")
            if (_has_image_suffix(file) or (arrays and file.suffix == ".npy")) and not file.is_dir()
        )
        if not inside:
            errors.append({"file": str(path), "error": "no images in this folder"})
        for file in inside:
            if _can_be_decoded(file) or file.suffix == ".npy":
                found[file] = file.relative_to(path)
            else:
                errors.append({"file": str(file), "error": f"{file.suffix.lower()} files cannot be decoded here"})
    return found


def _has_image_suffix(file: Path) -> bool:
    """Return whether a file has the suffix of an image format, supported or not."""
    return file.suffix.lower() in OTHER_IMAGES or _can_be_decoded(file)


def _can_be_decoded(file: Path) -> bool:
    """Return whether Pillow has a decoder for files with this suffix."""
    return Image.registered_extensions().get(file.suffix.lower()) in Image.OPEN
