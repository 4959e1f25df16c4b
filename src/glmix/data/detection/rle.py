"""Masks as COCO writes them: run lengths, compressed or not, and polygons. Needs the extra `dense`."""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...errors import MissingExtraError

__all__ = ["bad_segmentation", "decode_segmentation", "encode_mask", "to_rle"]

REACH = 10  # how many sides of an image a polygon may reach beyond it


def _api() -> Any:
    try:
        from faster_coco_eval import mask  # type: ignore[import-untyped]
    except ImportError as error:
        raise MissingExtraError(f"COCO's masks need {error.name}: pip install 'glmix[dense]'") from error
    return mask


def bad_segmentation(segmentation: Any, height: int, width: int) -> str | None:
    """What is wrong with the outline of an object in an image of this size, or None."""
    if isinstance(segmentation, dict):
        if not {"size", "counts"} <= set(segmentation):
            return f"run lengths need size and counts, found {', '.join(sorted(segmentation)) or 'nothing'}"
        size, counts = segmentation["size"], segmentation["counts"]
        if size != [height, width]:
            return f"run lengths of size {size} for an image of {[height, width]} (rows, columns)"
        if isinstance(counts, str):
            return None
        if not isinstance(counts, list) or not all(type(count) is int and count >= 0 for count in counts):
            return "run lengths that are neither whole numbers from 0 nor a string"
        if sum(counts) != height * width:
            return f"run lengths of {sum(counts)} pixels for an image of {height * width}"
        return None
    if not isinstance(segmentation, list) or not segmentation:
        return "no outline: neither run lengths nor polygons"
    for polygon in segmentation:
        if not isinstance(polygon, list) or len(polygon) < 6 or len(polygon) % 2:
            count = len(polygon) if isinstance(polygon, list) else 1
            return f"a polygon of {count} numbers; three or more points make 6, 8, 10 ..."
        if not _is_near(polygon, max(height, width)):
            return f"a polygon {str(polygon)[:60]} ..., which must be numbers, in the image or near"
    return None


def _is_near(polygon: list[Any], side: int) -> bool:
    """Whether all coordinates are numbers, and so near to an image that their outline fits the memory."""
    try:
        return math.isfinite(sum(polygon)) and max(map(abs, polygon)) <= REACH * side
    except TypeError:
        return False


def to_rle(segmentation: Any, height: int, width: int) -> dict[str, Any]:
    """Compressed run lengths of an object: {"size": [height, width], "counts": a string}."""
    api = _api()
    if isinstance(segmentation, dict):
        rle = api.frPyObjects(segmentation, height, width) if isinstance(segmentation["counts"], list) else segmentation
    else:
        rle = api.merge(api.frPyObjects(segmentation, height, width))
    return _plain(rle)


def decode_segmentation(segmentation: Any, height: int, width: int) -> NDArray[np.uint8]:
    """(H, W): 1 on the object, 0 elsewhere."""
    mask: NDArray[np.uint8] = _api().decode(to_rle(segmentation, height, width))
    return mask


def encode_mask(mask: NDArray[Any]) -> dict[str, Any]:
    """Compressed run lengths of a mask (H, W)."""
    return _plain(_api().encode(np.asfortranarray(mask, dtype=np.uint8)))


def _plain(rle: dict[str, Any]) -> dict[str, Any]:
    """Run lengths that JSON can hold."""
    counts = rle["counts"]
    return {
        "size": [int(side) for side in rle["size"]],
        "counts": counts.decode() if isinstance(counts, bytes) else counts,
    }
