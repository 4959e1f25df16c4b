"""Validation of the content of a COCO JSON before training."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ...errors import InputError
from .rle import segmentation_error

__all__ = ["check_content"]


def _clipped_size(box: Sequence[float], width: float, height: float) -> tuple[float, float]:
    """Return width and height of a box (x, y, width, height) after clipping to an image of this size."""
    x, y, w, h = box
    return min(x + w, width) - max(x, 0), min(y + h, height) - max(y, 0)


def check_content(
    content: Mapping[str, Any],
    path: Path,
    *,
    masks: bool = False,
    boxes: bool = True,
    categories: Mapping[int, str] | None = None,
) -> None:
    """Raise InputError for the first error in a COCO JSON.

    Args:
        content: the parsed JSON.
        path: the file name for error messages.
        masks: require a segmentation for every object.
        boxes: require every box to have an area inside its image.
        categories: {id: name} of the training data; other categories are an error.
    """
    for name, kind in (("images", "image"), ("annotations", "annotation"), ("categories", "category")):
        _check_ids(content[name], kind, path)
    names = {entry["id"]: entry.get("name") for entry in content["categories"]}
    for category, name in names.items():
        if not isinstance(name, str):
            raise InputError(f"{path}: category {category} has no name.")
        if categories is not None and categories.get(category) != name:
            expected = f"call it {categories[category]!r}" if category in categories else "do not have this id"
            known = ", ".join(f"{k} {v}" for k, v in list(categories.items())[:10]) + ", ..." * (len(categories) > 10)
            raise InputError(
                f"{path}: category {category} is {name!r}, but the training data {expected}. They have {known}."
            )
    if not names:
        raise InputError(f"{path} has no categories.")
    sizes = {}
    for entry in content["images"]:
        size = entry.get("width"), entry.get("height")
        if not all(isinstance(side, int) and side > 0 for side in size) or not isinstance(entry.get("file_name"), str):
            raise InputError(f"{path}: image {entry['id']} needs file_name, width and height, found {entry}.")
        sizes[entry["id"]] = size
    for item in content["annotations"]:
        error = _annotation_error(item, sizes, names, masks=masks, boxes=boxes)
        if error is not None:
            raise InputError(f"{path}: annotation {item['id']} {error}.")


def _check_ids(entries: Sequence[Any], kind: str, path: Path) -> None:
    """Raise InputError if an entry of a list has no integer id, or if an id occurs twice."""
    seen = set()
    for index, entry in enumerate(entries):
        entry_id = entry.get("id") if isinstance(entry, dict) else None
        if isinstance(entry_id, bool) or not isinstance(entry_id, int):
            raise InputError(f"{path}: the {kind} at index {index} has the id {entry_id!r}; ids must be integers.")
        if entry_id in seen:
            raise InputError(f"{path}: the {kind} id {entry_id} occurs twice; ids must be unique.")
        seen.add(entry_id)


def _annotation_error(
    item: Mapping[str, Any],
    sizes: Mapping[int, Any],
    names: Mapping[int, Any],
    *,
    masks: bool,
    boxes: bool,
) -> str | None:
    """Return the first error in an annotation, or None."""
    image, category, box = item.get("image_id"), item.get("category_id"), item.get("bbox")
    if not isinstance(image, int) or image not in sizes:
        return f"belongs to the image {image!r}, which is not in the list of {len(sizes)} images"
    if not isinstance(category, int) or category not in names:
        return f"has the category {category!r}, which is not in the list of categories: {', '.join(map(str, names))}"
    if not isinstance(box, list) or len(box) != 4 or not all(_is_number(value) for value in box):
        return f"has the box {box}; a box must be four numbers, x, y, width, height"
    width, height = sizes[image]
    if boxes and min(_clipped_size(box, width, height)) <= 0:
        return (
            f"has the box {box} (x, y, width, height) without area in the image {image} of {width} x {height} pixels "
            "(empty_boxes: drop removes such boxes)"
        )
    if masks:
        error = segmentation_error(item.get("segmentation"), height, width)
        if error is not None:
            return f"in the image {image} has {error}"
    return None


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
