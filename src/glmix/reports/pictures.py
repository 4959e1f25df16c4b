"""Thumbnails of the images that a report shows. They are stored with the predictions as `pictures/SAMPLE.jpg`."""

import base64
from collections.abc import Callable, Mapping
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from ..drawing import palette_image
from ..errors import InputError
from ..files import write_atomically
from .predictions import PICTURES

__all__ = ["LabelMaps", "image_opener", "picture_uri", "save_pictures"]

SIDE = 320  # longer side of a thumbnail in pixels
DETECTED, OBJECT = (240, 130, 30), (60, 140, 240)  # outlines of detections and of objects

LabelMaps = Mapping[int, tuple[NDArray[np.uint8], NDArray[np.uint8]]]  # sample -> (ground truth, prediction)


def save_pictures(
    folder: Path, report: Mapping[str, Any], open_image: Callable[[int], Image.Image | None], maps: LabelMaps
) -> None:
    """Write the thumbnails of the mistakes of a report; only these images are decoded.

    Args:
        folder: the folder of the predictions.
        report: the numbers of the report.
        open_image: function that returns the image of a sample, or None if there is none.
        maps: ground truth and prediction of the samples of a segmentation network that have them, as class indices.
    """
    for number, item in enumerate(report["mistakes"]):
        image = open_image(item["sample"])
        if image is None:
            continue
        thumbnail = _thumbnail(image)
        if "box" in item:
            _draw_boxes(thumbnail, image.size, item)
        if item["sample"] in maps:
            names = [row["class"] for row in report["classes"]]
            thumbnail = _beside(thumbnail, *maps[item["sample"]], names)
        file = BytesIO()
        thumbnail.save(file, "JPEG", quality=85, optimize=True)
        write_atomically(_path(folder, number, item), file.getvalue())


def picture_uri(folder: Path, number: int, item: Mapping[str, Any]) -> str | None:
    """Return the stored thumbnail of a mistake as a data URI; None if there is none."""
    path = _path(folder, number, item)
    if not path.is_file():
        return None
    return f"data:image/jpeg;base64,{base64.b64encode(path.read_bytes()).decode('ascii')}"


def _path(folder: Path, number: int, item: Mapping[str, Any]) -> Path:
    return folder / PICTURES / f"{number:02d}-{item['sample']}.jpg"


def _thumbnail(image: Image.Image) -> Image.Image:
    """Return a copy as RGB with a longer side of `SIDE` pixels. Small images are enlarged without smoothing."""
    image = image.convert("RGB")
    enlarge = max(image.size) < SIDE
    size = tuple(max(1, round(side * SIDE / max(image.size))) for side in image.size)
    return image.resize((size[0], size[1]), Image.Resampling.NEAREST if enlarge else Image.Resampling.LANCZOS)


def _draw_boxes(thumbnail: Image.Image, size: tuple[int, int], item: Mapping[str, Any]) -> None:
    draw = ImageDraw.Draw(thumbnail)
    scale = np.array([thumbnail.width / size[0], thumbnail.height / size[1]] * 2)
    boxes = [(box, OBJECT, 2) for box in item["objects"]] + [(item["box"], DETECTED, 4)]
    for box, colour, width in boxes:
        left, top, right, bottom = (np.array(box) * scale).tolist()
        draw.rectangle((left, top, max(left, right), max(top, bottom)), outline=colour, width=width)


def _beside(
    thumbnail: Image.Image, truth: NDArray[np.uint8], predicted: NDArray[np.uint8], class_names: list[str]
) -> Image.Image:
    """Return an image, its ground truth and its prediction side by side. Ignored pixels are black."""
    sheet = Image.new("RGB", (3 * thumbnail.width + 16, thumbnail.height), "white")
    sheet.paste(thumbnail, (0, 0))
    # predictions on ignored pixels are not evaluated
    for place, labels in enumerate((truth, np.where(truth == 255, truth, predicted)), start=1):
        coloured = palette_image(labels, class_names).resize(thumbnail.size, Image.Resampling.NEAREST)
        sheet.paste(coloured.convert("RGB"), (place * (thumbnail.width + 8), 0))
    return sheet


def image_opener(names: list[str], folder: Path) -> Callable[[int], Image.Image | None]:
    """Return a function that opens the image of a sample by its name below a folder; None if there is no such file.

    Raises:
        InputError: there is no such folder.
    """
    if not folder.is_dir():
        raise InputError(f"There is no folder {folder}: give the folder that the names of the samples are relative to.")

    def open_image(sample: int) -> Image.Image | None:
        from ..data.core.image_files import read_upright

        path = (folder / names[sample]).resolve()
        # a name in a file of predictions must not lead outside the folder
        inside = path.is_relative_to(folder.resolve())
        return read_upright(path) if inside and path.is_file() else None

    return open_image
