"""Masks in the COCO format: run-length encoding (RLE), compressed or not, and polygons. Needs the extra `dense`."""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...errors import needs_extra

__all__ = ["decode_segmentation", "encode_mask", "encode_part", "mask_area", "segmentation_error", "to_rle"]

MAX_COORDINATE = 10  # largest absolute coordinate of a polygon, as a multiple of the longer side of the image


def _mask_api() -> Any:
    """Import the mask functions of faster-coco-eval, which has the interface of pycocotools."""
    with needs_extra("dense", "COCO masks"):
        from faster_coco_eval import mask  # type: ignore[import-untyped]
    return mask


def segmentation_error(segmentation: Any, height: int, width: int) -> str | None:
    """Return the first error in the segmentation of an object in an image of this size, or None."""
    if isinstance(segmentation, dict):
        if not {"size", "counts"} <= set(segmentation):
            found = ", ".join(sorted(segmentation)) or "nothing"
            return f"an invalid RLE, which must have size and counts, found {found}"
        size, counts = segmentation["size"], segmentation["counts"]
        if size != [height, width]:
            return f"an RLE of size {size} for an image of size {[height, width]} (height, width)"
        if isinstance(counts, str):
            return None
        if not isinstance(counts, list) or not all(type(count) is int and count >= 0 for count in counts):
            return "an RLE whose counts are neither integers of at least 0 nor a string"
        if sum(counts) != height * width:
            return f"an RLE of {sum(counts)} pixels for an image of {height * width} pixels"
        return None
    if not isinstance(segmentation, list) or not segmentation:
        return "no segmentation: neither an RLE nor polygons"
    for polygon in segmentation:
        if not isinstance(polygon, list) or len(polygon) < 6 or len(polygon) % 2:
            count = len(polygon) if isinstance(polygon, list) else 1
            return f"a polygon of {count} numbers; three or more points have 6, 8, 10 ... numbers"
        if not _has_valid_coordinates(polygon, max(height, width)):
            return (
                f"a polygon {str(polygon)[:60]} ..., whose coordinates must be numbers of at most {MAX_COORDINATE} "
                "times the longer side of the image"
            )
    return None


def _has_valid_coordinates(polygon: list[Any], side: int) -> bool:
    """Return whether all coordinates are numbers, and small enough for the rasterised polygon to fit in memory."""
    try:
        return math.isfinite(sum(polygon)) and max(map(abs, polygon)) <= MAX_COORDINATE * side
    except TypeError:
        return False


def to_rle(segmentation: Any, height: int, width: int) -> dict[str, Any]:
    """Return the compressed RLE of a segmentation: {"size": [height, width], "counts": str}."""
    api = _mask_api()
    if isinstance(segmentation, dict):
        rle = api.frPyObjects(segmentation, height, width) if isinstance(segmentation["counts"], list) else segmentation
    else:
        rle = api.merge(api.frPyObjects(segmentation, height, width))
    return _to_json(rle)


def decode_segmentation(segmentation: Any, height: int, width: int) -> NDArray[np.uint8]:
    """Return the binary mask of a segmentation, (H, W): 1 on the object, 0 elsewhere."""
    mask: NDArray[np.uint8] = _mask_api().decode(to_rle(segmentation, height, width))
    return mask


def encode_mask(mask: NDArray[Any]) -> dict[str, Any]:
    """Return the compressed RLE of a mask (H, W)."""
    return _to_json(_mask_api().encode(np.asfortranarray(mask, dtype=np.uint8)))


def encode_part(mask: NDArray[Any], top: int, left: int, size: tuple[int, int]) -> dict[str, Any]:
    """Return the compressed RLE of a mask (h, w) at (top, left) in an image of another size (H, W)."""
    height, width = size
    borders = np.diff(np.pad(np.asarray(mask, np.int8), ((1, 1), (0, 0))), axis=0)  # RLE goes down the columns
    columns, rows = np.nonzero(borders.T)
    positions = ((left + columns) * height + top + rows).reshape(-1, 2)  # start and end of each run
    apart = positions[1:, 0] != positions[:-1, 1]  # not where a run continues at the top of the next column
    starts = positions[np.concatenate([[True], apart])[: len(positions)], 0]
    ends = positions[np.concatenate([apart, [True]])[: len(positions)], 1]
    counts = np.diff(np.stack([starts, ends], 1).ravel(), prepend=0, append=height * width).tolist()
    return to_rle({"size": [height, width], "counts": counts if counts[-1] else counts[:-1]}, height, width)


def mask_area(rle: dict[str, Any]) -> int:
    """Return the number of pixels of a mask in compressed RLE."""
    return int(_mask_api().area(rle))


def _to_json(rle: dict[str, Any]) -> dict[str, Any]:
    """Convert an RLE to types that JSON can represent."""
    counts = rle["counts"]
    return {
        "size": [int(side) for side in rle["size"]],
        "counts": counts.decode() if isinstance(counts, bytes) else counts,
    }
