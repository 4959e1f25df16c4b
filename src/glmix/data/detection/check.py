"""What can be wrong in a COCO JSON, found before anything is trained and told in a sentence."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ...errors import InputError
from .rle import bad_segmentation

__all__ = ["check_content", "inside"]


def inside(box: Sequence[float], width: float, height: float) -> tuple[float, float]:
    """Width and height of the part of a box (x, y, width, height) that lies in an image of this size."""
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
    """Raise ValueError about the first thing that is wrong.

    Args:
        path: what messages call the file.
        masks: every object must have an outline.
        boxes: every box must have an area inside its image.
        categories: {id: name} of the data that are trained on: there may be no others.
    """
    for name, kind in (("images", "image"), ("annotations", "annotation"), ("categories", "category")):
        _check_ids(content[name], kind, path)
    named = {entry["id"]: entry.get("name") for entry in content["categories"]}
    for category, name in named.items():
        if not isinstance(name, str):
            raise InputError(f"{path}: category {category} has no name.")
        if categories is not None and categories.get(category) != name:
            there = f"call it {categories[category]!r}" if category in categories else "have no such id"
            known = ", ".join(f"{k} {v}" for k, v in list(categories.items())[:10]) + ", ..." * (len(categories) > 10)
            raise InputError(
                f"{path}: category {category} is {name!r}, but the data that are trained on {there}. They have {known}."
            )
    if not named:
        raise InputError(f"{path} has no categories.")
    sizes = {}
    for entry in content["images"]:
        size = entry.get("width"), entry.get("height")
        if not all(isinstance(side, int) and side > 0 for side in size) or not isinstance(entry.get("file_name"), str):
            raise InputError(f"{path}: image {entry['id']} needs file_name, width and height, found {entry}.")
        sizes[entry["id"]] = size
    for item in content["annotations"]:
        wrong = _wrong(item, sizes, named, masks=masks, boxes=boxes)
        if wrong is not None:
            raise InputError(f"{path}: annotation {item['id']} {wrong}.")


def _check_ids(entries: Sequence[Any], kind: str, path: Path) -> None:
    seen = set()
    for place, entry in enumerate(entries):
        number = entry.get("id") if isinstance(entry, dict) else None
        if isinstance(number, bool) or not isinstance(number, int):
            raise InputError(
                f"{path}: {kind} number {place} in its list has the id {number!r}, which must be a whole number."
            )
        if number in seen:
            raise InputError(f"{path}: the {kind} id {number} is there twice; ids must differ.")
        seen.add(number)


def _wrong(
    item: Mapping[str, Any],
    sizes: Mapping[int, Any],
    names: Mapping[int, Any],
    *,
    masks: bool,
    boxes: bool,
) -> str | None:
    """What is wrong with an annotation."""
    image, category, box = item.get("image_id"), item.get("category_id"), item.get("bbox")
    if not isinstance(image, int) or image not in sizes:
        return f"belongs to the image {image!r}, which is not in the list of {len(sizes)} images"
    if not isinstance(category, int) or category not in names:
        return f"has the category {category!r}, which is not in the list of categories: {', '.join(map(str, names))}"
    if not isinstance(box, list) or len(box) != 4 or not all(_is_number(part) for part in box):
        return f"has the box {box}; it must be four numbers, x, y, width, height"
    width, height = sizes[image]
    if boxes and min(inside(box, width, height)) <= 0:
        return (
            f"has the box {box} (x, y, width, height) without area in the image {image} of {width} x {height} pixels "
            "(empty_boxes: drop leaves such boxes out)"
        )
    if masks:
        wrong = bad_segmentation(item.get("segmentation"), height, width)
        if wrong is not None:
            return f"in the image {image}: {wrong}"
    return None


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
