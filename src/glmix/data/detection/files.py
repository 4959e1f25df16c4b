"""Images and annotations of a COCO JSON, which is validated when it is opened. Errors name the file and the id.

Labels are numbered from 1 in the order of the category ids; 0 is the background. Category ids may have gaps, as in
COCO: the ids are kept, and results are written with them.
"""

import json
import os
import pickle
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageOps

from ...errors import InputError
from ..core.decoding import UNREADABLE, to_8_bit
from .check import check_content

__all__ = ["CocoFiles", "EmptyBoxes", "open_coco", "read_annotations", "read_categories", "read_stored"]

EmptyBoxes = Literal["error", "drop"]


class SerializedList(Sequence[Any]):
    """A list of pickled objects in one byte array.

    Forked worker processes share its memory pages. With a list of Python objects they would copy the pages, because
    reading an object changes its reference count.
    """

    def __init__(self, items: Iterable[Any]) -> None:
        pickled = [pickle.dumps(item, pickle.HIGHEST_PROTOCOL) for item in items]
        self._ends = np.cumsum([0, *map(len, pickled)])
        self._bytes = np.frombuffer(b"".join(pickled), np.uint8)

    def __len__(self) -> int:
        return len(self._ends) - 1

    def __getitem__(self, index: Any) -> Any:
        return pickle.loads(self._bytes[self._ends[index] : self._ends[index + 1]].data)


@dataclass(frozen=True, eq=False)
class CocoFiles:
    """The images of a COCO JSON with their objects; see `open_coco`.

    Args:
        path: the JSON file.
        folder: the image folder.
        categories: {id: name}; the label of the k-th category is k, from 1.
        records: per image, its entry in the JSON and the list of its annotations.
    """

    path: Path
    folder: Path
    categories: dict[int, str]
    records: SerializedList

    @property
    def class_names(self) -> list[str]:
        return list(self.categories.values())

    @property
    def category_ids(self) -> list[int]:
        return list(self.categories)

    def __len__(self) -> int:
        return len(self.records)

    def name(self, index: int) -> str:
        """Return the file name of an image, as in the JSON."""
        entry, _ = self.records[index]
        return str(entry["file_name"])

    def image(self, index: int) -> Image.Image:
        """Load an image as RGB, in the size that the JSON states."""
        entry, _ = self.records[index]
        return read_stored(self.folder / entry["file_name"], (entry["width"], entry["height"]), self.path)

    def target(self, index: int) -> dict[str, Any]:
        """Return the annotations of an image.

        Returns:
            image_id, size (height, width), boxes (n, 4) as x1 y1 x2 y2, labels (n,), area (n,), iscrowd (n,), and
            segmentations, a list of n as in the JSON.
        """
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
        """Return the indices of images with at least one object that is not a crowd."""
        has_object = [any(not item.get("iscrowd", 0) for item in objects) for _, objects in self.records]
        return np.flatnonzero(has_object)


def open_coco(
    images: str | os.PathLike[str],
    annotations: str | os.PathLike[str],
    *,
    masks: bool = False,
    empty_boxes: EmptyBoxes = "error",
    categories: Mapping[int, str] | None = None,
) -> CocoFiles:
    """Read and validate a COCO JSON. Image files must exist; they are read later.

    Args:
        images: the folder that the file names in the JSON are relative to.
        annotations: the JSON file.
        masks: require a segmentation for every object: polygons, or RLE, compressed or not.
        empty_boxes: handling of boxes without area inside their image: raise an `error`, or `drop` them. The training
            data of COCO have two such boxes.
        categories: {id: name} of the training data, which defines the labels; None uses the categories of the JSON.

    Raises:
        FileNotFoundError: the JSON, the image folder or an image is missing.
        InputError: the JSON is invalid.
    """
    path, folder = Path(annotations), Path(images)
    content = _read_json(path)
    if not folder.is_dir():
        raise FileNotFoundError(f"There is no image folder {folder} for {path}.")
    check_content(content, path, masks=masks, boxes=empty_boxes == "error", categories=categories)
    _check_images_exist(content["images"], folder, path)
    return CocoFiles(path, folder, dict(categories or _categories(content)), _records(content, masks))


def read_annotations(annotations: str | os.PathLike[str]) -> tuple[CocoFiles, bool]:
    """Read a COCO JSON with all of its boxes, without looking for the image files.

    Returns:
        The annotations, with an empty `folder`, and whether they have masks.

    Raises:
        InputError: the file is not a COCO JSON, or only some of the annotations have masks.
    """
    path = Path(annotations)
    content = _read_json(path)
    masks = any(isinstance(item, dict) and item.get("segmentation") for item in content["annotations"])
    check_content(content, path, masks=masks, boxes=False)
    return CocoFiles(path, Path(), _categories(content), _records(content, masks)), masks


def _records(content: dict[str, Any], masks: bool) -> SerializedList:
    """Return the entry of each image and its annotations, reduced to the keys that are used."""
    objects: dict[int, list[dict[str, Any]]] = {entry["id"]: [] for entry in content["images"]}
    for item in content["annotations"]:
        objects[item["image_id"]].append(item)
    keys = ("category_id", "bbox", "area", "iscrowd", *(("segmentation",) if masks else ()))
    return SerializedList(
        (
            {name: entry[name] for name in ("id", "file_name", "width", "height")},
            [{name: item[name] for name in keys if name in item} for item in objects[entry["id"]]],
        )
        for entry in content["images"]
    )


def read_categories(annotations: str | os.PathLike[str]) -> dict[int, str]:
    """Return {id: name} of the categories of a COCO JSON, sorted by id."""
    path = Path(annotations)
    content = _read_json(path)
    check_content({**content, "images": [], "annotations": []}, path)
    return _categories(content)


def _categories(content: dict[str, Any]) -> dict[int, str]:
    return {entry["id"]: entry["name"] for entry in sorted(content["categories"], key=lambda entry: int(entry["id"]))}


def _read_json(path: Path) -> dict[str, Any]:
    """Parse a COCO JSON and check that it has the required lists."""
    if not path.is_file():
        raise FileNotFoundError(f"There is no annotation file {path}.")
    try:
        content = json.loads(path.read_bytes())
    except ValueError as error:
        raise InputError(f"{path} is not valid JSON ({error}).") from error
    lists = ("images", "annotations", "categories")
    if not isinstance(content, dict) or not all(isinstance(content.get(name), list) for name in lists):
        found = f"the keys {', '.join(content) or 'none'}" if isinstance(content, dict) else type(content).__name__
        raise InputError(f"{path} must be a JSON object with the lists {', '.join(lists)}; found {found}.")
    return content


def _check_images_exist(images: Sequence[dict[str, Any]], folder: Path, path: Path) -> None:
    """Raise FileNotFoundError if an image is missing. Folders are listed once, because a stat per file is slow."""
    listed: dict[Path, set[str]] = {}
    missing = []
    for entry in images:
        file = folder / entry["file_name"]
        if file.parent not in listed:
            listed[file.parent] = set(os.listdir(file.parent)) if file.parent.is_dir() else set()
        if file.name not in listed[file.parent]:
            missing.append(entry["file_name"])
    if missing:
        examples = ", ".join(missing[:3]) + (", ..." if len(missing) > 3 else "")
        raise FileNotFoundError(f"{len(missing)} of {len(images)} images of {path} are missing in {folder}: {examples}")


def read_stored(
    path: Path | BinaryIO,
    size: tuple[int, int] | None = None,
    source: Path | None = None,
    name: str | None = None,
) -> Image.Image:
    """Load an image as RGB in the orientation of its annotations.

    COCO annotations refer to the pixels as they are stored, independent of the EXIF tag. Annotation tools that show
    images upright write the upright size: if `size` is the size of the upright image and not of the stored one, the
    image is rotated. CMYK, 8- and 16-bit greyscale, palettes and transparency are supported.

    Args:
        path: the image file, or its content.
        size: (width, height) that the JSON states; None accepts any size and does not rotate.
        source: the JSON file, for error messages.
        name: the name of the image in error messages; None for `path`.

    Raises:
        InputError: the image cannot be read or has another size.
    """
    name = str(path) if name is None else name
    try:
        with Image.open(path) as image:
            stored_size = image.size
            if size is not None and size != stored_size and size == stored_size[::-1] and _exif_swaps_sides(image):
                ImageOps.exif_transpose(image, in_place=True)
            rgb = to_8_bit(image).convert("RGB")
    except UNREADABLE as error:
        raise InputError(f"The image {name} cannot be read ({type(error).__name__}: {error}).") from error
    if size is not None and rgb.size != size:
        raise InputError(
            f"The image {name} is {stored_size[0]} x {stored_size[1]} pixels (width x height), but in {source} it is "
            f"{size[0]} x {size[1]}."
        )
    return rgb


def _exif_swaps_sides(image: Image.Image) -> bool:
    """Return whether the EXIF orientation exchanges width and height."""
    return image.getexif().get(ExifTags.Base.Orientation, 1) in (5, 6, 7, 8)
