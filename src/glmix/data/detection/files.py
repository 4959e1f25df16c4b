"""Images with boxes and masks as a COCO JSON tells them, with what is wrong in it told by file and number, early.

Labels count from 1, in the order of the category ids; 0 is the background. Ids may have gaps, as COCO's own have: the
ids are remembered, and results are written with them.
"""

import json
import os
import pickle
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageOps

from ...errors import InputError
from ..core.decoding import UNREADABLE, to_8_bit
from .check import check_content

__all__ = ["CocoFiles", "EmptyBoxes", "open_coco", "read_annotations", "read_categories", "read_stored"]

EmptyBoxes = Literal["error", "drop"]


class Packed(Sequence[Any]):
    """Objects in one array of bytes, which processes that load share: to read a Python object is to write to it."""

    def __init__(self, items: Iterable[Any]) -> None:
        parts = [pickle.dumps(item, pickle.HIGHEST_PROTOCOL) for item in items]
        self._ends = np.cumsum([0, *map(len, parts)])
        self._bytes = np.frombuffer(b"".join(parts), np.uint8)

    def __len__(self) -> int:
        return len(self._ends) - 1

    def __getitem__(self, index: Any) -> Any:
        return pickle.loads(self._bytes[self._ends[index] : self._ends[index + 1]].data)


@dataclass(frozen=True, eq=False)
class CocoFiles:
    """The images of one JSON with their objects; see `open_coco`.

    Args:
        path: the JSON.
        folder: where the images lie.
        categories: {id: name}; the label of the k-th is k, from 1.
        records: for each image its entry in the JSON, and a list of the entries of its objects.
    """

    path: Path
    folder: Path
    categories: dict[int, str]
    records: Packed

    @property
    def class_names(self) -> list[str]:
        return list(self.categories.values())

    @property
    def category_ids(self) -> list[int]:
        return list(self.categories)

    def __len__(self) -> int:
        return len(self.records)

    def image(self, index: int) -> Image.Image:
        """RGB, of the size that the JSON says."""
        entry, _ = self.records[index]
        return read_stored(self.folder / entry["file_name"], (entry["width"], entry["height"]), self.path)

    def target(self, index: int) -> dict[str, Any]:
        """Objects as the JSON has them: image_id, size (height, width), boxes (n, 4) as x1 y1 x2 y2, labels (n,), area
        (n,), iscrowd (n,) and segmentations, a list."""
        entry, objects = self.records[index]
        label = {category: k for k, category in enumerate(self.categories, start=1)}
        corners = np.array([item["bbox"] for item in objects], np.float64).reshape(-1, 4)
        corners[:, 2:] += corners[:, :2]
        areas = [item.get("area", item["bbox"][2] * item["bbox"][3]) for item in objects]
        return {
            "image_id": entry["id"],
            "size": (entry["height"], entry["width"]),
            "boxes": corners,
            "labels": np.array([label[item["category_id"]] for item in objects], np.int64),
            "area": np.array(areas, np.float64),
            "iscrowd": np.array([item.get("iscrowd", 0) for item in objects], np.int64),
            "segmentations": [item.get("segmentation") for item in objects],
        }

    def with_objects(self) -> NDArray[np.int64]:
        """The indices of images that show an object, which is no crowd."""
        shown = [any(not item.get("iscrowd", 0) for item in objects) for _, objects in self.records]
        return np.flatnonzero(shown)


def open_coco(
    images: str | os.PathLike[str],
    annotations: str | os.PathLike[str],
    *,
    masks: bool = False,
    empty_boxes: EmptyBoxes = "error",
    categories: Mapping[int, str] | None = None,
) -> CocoFiles:
    """Read a COCO JSON and look at all of it; image files must be there, and are read later.

    Args:
        images: the folder that file names in the JSON start from.
        annotations: the JSON.
        masks: outlines are needed: polygons, or run lengths in either form.
        empty_boxes: what becomes of boxes without area inside their image: an `error`, or `drop` them. COCO's own
            training data have two.
        categories: {id: name} of the data that are trained on, which number the labels; None takes the JSON's own.
    """
    path, folder = Path(annotations), Path(images)
    content = _read_json(path)
    if not folder.is_dir():
        raise FileNotFoundError(f"There is no folder of images {folder}, for {path}.")
    check_content(content, path, masks=masks, boxes=empty_boxes == "error", categories=categories)
    _check_files(content["images"], folder, path)
    return CocoFiles(path, folder, dict(categories or _categories(content)), _records(content, masks))


def read_annotations(annotations: str | os.PathLike[str]) -> tuple[CocoFiles, bool]:
    """Read a COCO JSON whose image files are given elsewhere, with all of its boxes.

    Returns:
        The annotations, with an empty `folder`, and whether they have masks.

    Raises:
        InputError: the file is no COCO JSON, or some annotations have masks and others have none.
    """
    path = Path(annotations)
    content = _read_json(path)
    masks = any(isinstance(item, dict) and item.get("segmentation") for item in content["annotations"])
    check_content(content, path, masks=masks, boxes=False)
    return CocoFiles(path, Path(), _categories(content), _records(content, masks)), masks


def _records(content: dict[str, Any], masks: bool) -> Packed:
    """For each image its entry and the entries of its objects."""
    objects: dict[int, list[dict[str, Any]]] = {entry["id"]: [] for entry in content["images"]}
    for item in content["annotations"]:
        objects[item["image_id"]].append(item)
    kept = ("category_id", "bbox", "area", "iscrowd", *(("segmentation",) if masks else ()))
    return Packed(
        (
            {name: entry[name] for name in ("id", "file_name", "width", "height")},
            [{name: item[name] for name in kept if name in item} for item in objects[entry["id"]]],
        )
        for entry in content["images"]
    )


def read_categories(annotations: str | os.PathLike[str]) -> dict[int, str]:
    """{id: name} of a COCO JSON, in the order of the ids."""
    path = Path(annotations)
    content = _read_json(path)
    check_content({**content, "images": [], "annotations": []}, path)
    return _categories(content)


def _categories(content: dict[str, Any]) -> dict[int, str]:
    return {entry["id"]: entry["name"] for entry in sorted(content["categories"], key=lambda entry: int(entry["id"]))}


def _read_json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise FileNotFoundError(f"There is no file of annotations {path}.")
    try:
        content = json.loads(path.read_bytes())
    except ValueError as error:
        raise InputError(f"{path} is no JSON ({error}).") from error
    lists = ("images", "annotations", "categories")
    if not isinstance(content, dict) or not all(isinstance(content.get(name), list) for name in lists):
        found = ", ".join(content) if isinstance(content, dict) else type(content).__name__
        raise InputError(f"{path} must be an object with the lists {', '.join(lists)}; it has {found or 'nothing'}.")
    return content


def _check_files(images: Sequence[dict[str, Any]], folder: Path, path: Path) -> None:
    """Raise FileNotFoundError if an image is missing. Folders are listed, as asking for each file would take long."""
    listed: dict[Path, set[str]] = {}
    missing = []
    for entry in images:
        file = folder / entry["file_name"]
        if file.parent not in listed:
            listed[file.parent] = set(os.listdir(file.parent)) if file.parent.is_dir() else set()
        if file.name not in listed[file.parent]:
            missing.append(entry["file_name"])
    if missing:
        named = ", ".join(missing[:3]) + (", ..." if len(missing) > 3 else "")
        raise FileNotFoundError(
            f"Of {len(images)} images that {path} names {len(missing)} are not in {folder}: {named}"
        )


def read_stored(path: Path, size: tuple[int, int] | None = None, source: Path | None = None) -> Image.Image:
    """The image in RGB: pixels as they are stored, to which COCO's annotations refer, whatever an EXIF tag says.

    Tools that show images upright annotate them so, and write the upright size: where the size (width, height) that
    the JSON tells is that of the upright image and not of the stored one, the image is turned. CMYK, grey of 8 or 16
    bits, palettes and transparency are read.
    """
    try:
        with Image.open(path) as image:
            stored = image.size
            if size is not None and size != stored and size == stored[::-1] and _is_turned(image):
                ImageOps.exif_transpose(image, in_place=True)
            rgb = to_8_bit(image).convert("RGB")
    except UNREADABLE as error:
        raise InputError(f"The image {path} cannot be read ({type(error).__name__}: {error}).") from error
    if size is not None and rgb.size != size:
        raise InputError(
            f"The image {path} is {stored[0]} x {stored[1]} pixels (width x height), but {source} says "
            f"{size[0]} x {size[1]}."
        )
    return rgb


def _is_turned(image: Image.Image) -> bool:
    """Whether the EXIF tag exchanges width and height."""
    return image.getexif().get(ExifTags.Base.Orientation, 1) in (5, 6, 7, 8)
