"""Stored embeddings: one vector for each image, or one for each slot of each image."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..data.classification.views import seen_region
from ..data.core.tables import pyarrow
from ..errors import InputError
from .results import MANIFEST

__all__ = ["Embeddings", "Slots", "load_embeddings"]


@dataclass(frozen=True, eq=False)
class Slots:
    """The image, the slot number and the pixels of each vector of slots.

    Args:
        images: index of the image of each vector (M,), in increasing order.
        numbers: number of the slot of each vector (M,), from 0.
        maps: for each image, the number of the slot with the highest weight at each pixel of the block (h, w).
        regions: for each image, the region that the grid covers: left, top, right, bottom in pixels of the upright
            image (N, 4). It may be a part of the image, or reach beyond it.
        sizes: (width, height) of each upright image (N, 2).
    """

    images: NDArray[np.int64]
    numbers: NDArray[np.int64]
    maps: list[NDArray[np.uint16]]
    regions: NDArray[np.float64]
    sizes: NDArray[np.int64]

    def mask(self, image: int, *slots: int) -> NDArray[np.bool_]:
        """Return a mask (h, w) of the pixels at which one of the given slots of an image has the highest weight."""
        return np.isin(self.maps[image], slots)

    def visible(self) -> NDArray[np.bool_]:
        """Return whether the slot of each vector has the highest weight at any pixel (M,)."""
        starts = np.searchsorted(self.images, np.arange(len(self.maps) + 1))
        visible = np.zeros(len(self.images), bool)
        for image, found in enumerate(self.maps):
            visible[starts[image] + np.unique(found)] = True
        return visible

    def slot_at(self, image: int, x: float, y: float) -> int:
        """Return the strongest slot at a point of an image.

        Args:
            image: index of the image.
            x: pixels from the left edge of the upright image.
            y: pixels from its top edge.

        Raises:
            InputError: the point is outside the part of the image in the model input.
        """
        left, top, right, bottom = self.regions[image]
        if not (left <= x < right and top <= y < bottom):
            raise InputError(
                f"The point {x:g} {y:g} is outside the part of the image in the model input, from {left:.0f} {top:.0f} "
                f"to {right:.0f} {bottom:.0f}."
            )
        rows, cols = self.maps[image].shape
        return int(self.maps[image][int((y - top) / (bottom - top) * rows), int((x - left) / (right - left) * cols)])

    def box(self, image: int, *slots: int) -> tuple[float, float, float, float]:
        """Return the bounding box of some slots: left, top, right, bottom in pixels of the upright image.

        Raises:
            InputError: the slots have the highest weight at no pixel.
        """
        mask = self.mask(image, *slots)
        if not mask.any():
            raise InputError(f"Slot {', '.join(map(str, slots))} has the highest weight at no pixel of the image.")
        left, top, right, bottom = self.regions[image]
        sides = []
        for axis, (first, last) in enumerate(((left, right), (top, bottom))):
            hits = np.flatnonzero(mask.any(axis))
            step = (last - first) / mask.shape[1 - axis]
            sides.append((float(first + hits[0] * step), float(first + (hits[-1] + 1) * step)))
        return sides[0][0], sides[1][0], sides[0][1], sides[1][1]


@dataclass(frozen=True, eq=False)
class Embeddings:
    """Vectors of a collection of images.

    Args:
        keys: names of the images that have vectors.
        vectors: their vectors (N, D) in float32, or the vectors of all their slots (M, D) in the stored dtype.
        errors: names of the images without a vector.
        slots: the image and the slot of each vector; None for one vector per image.
    """

    keys: list[str]
    vectors: NDArray[Any]
    errors: list[str]
    slots: Slots | None = None

    def require_slots(self) -> Slots:
        """Return `slots`, or raise an InputError if there is one vector per image."""
        if self.slots is None:
            raise InputError("A search for parts of images needs slots: compute them with `glmix embed --slots`.")
        return self.slots


def load_embeddings(folder: str | Path, column: str | None = None, *, slots: bool | None = None) -> Embeddings:
    """Read the vectors that `glmix embed` or `run_to_folder` wrote.

    Args:
        folder: folder with Parquet files.
        column: column of the vectors; None for the only one.
        slots: whether slots are accepted (True) or required to be absent (False); None to accept both.

    Raises:
        InputError: the folder has no Parquet files, no such column, or slots where they are not accepted.
    """
    _, parquet = pyarrow()
    folder = Path(folder)
    files = sorted(folder.glob("part-*.parquet"))
    if not files:
        raise InputError(f"{folder} contains no part-*.parquet files: write them with `glmix embed`.")
    columns = [name for name in parquet.read_schema(files[0]).names if name.startswith("embedding") or name == "slots"]
    if column is None and len(columns) == 1:
        column = columns[0]
    if column not in columns:
        given = "has no column of vectors" if column is None and not columns else f"column is {column}"
        raise InputError(f"{folder}: {given}, expected one of {', '.join(columns) or 'embedding, embedding_N, slots'}.")
    if slots is not None and slots != (column == "slots"):
        found, wanted = ("slots", "without --slots") if column == "slots" else ("one vector per image", "with --slots")
        raise InputError(f"{folder} contains {found}: compute it with `glmix embed` {wanted}.")
    more = ["width", "height", "input_width", "input_height", "slot_map", "grid_width", "grid_height"]
    keys: list[str] = []
    errors: list[str] = []
    blocks = []
    counts: list[NDArray[np.int64]] = []
    images: list[dict[str, Any]] = []
    for file in files:
        table = parquet.read_table(file, columns=["key", column, *(more if column == "slots" else ())])
        vectors = table.column(column).combine_chunks()
        valid = vectors.is_valid()
        good = valid.to_numpy(zero_copy_only=False)
        names = np.array(table.column("key").to_pylist(), object)
        keys += names[good].tolist()
        errors += names[~good].tolist()
        vectors = vectors.filter(valid)
        if column == "slots":
            counts.append(vectors.value_lengths().to_numpy(zero_copy_only=False))
            images += table.select(more).filter(valid).to_pylist()
            vectors = vectors.flatten()
        if len(vectors) == 0:
            continue
        values = vectors.flatten().to_numpy(zero_copy_only=False).reshape(len(vectors), -1)
        blocks.append(values if column == "slots" else values.astype(np.float32))
    if not blocks:
        blocks = [np.zeros((0, 0), np.float32)]
    found_slots = _slots(folder, images, np.concatenate(counts)) if column == "slots" else None
    return Embeddings(keys, np.concatenate(blocks), errors, found_slots)


def _slots(folder: Path, images: list[dict[str, Any]], counts: NDArray[np.int64]) -> Slots:
    """Return the images, slots and regions of vectors from the rows of a folder, with the number of slots of each."""
    manifest = json.loads((folder / MANIFEST).read_text())
    view = [manifest[name] for name in ("view", "crop_pct", "crop_mode")]
    sizes = [(row["width"], row["height"]) for row in images]
    inputs = [(row["input_width"], row["input_height"]) for row in images]
    regions = [seen_region(size, of_input, *view) for size, of_input in zip(sizes, inputs, strict=True)]
    maps = [np.array(row["slot_map"], np.uint16).reshape(row["grid_height"], row["grid_width"]) for row in images]
    numbers = np.concatenate([np.arange(count) for count in counts]) if len(counts) else np.zeros(0, np.int64)
    return Slots(
        np.repeat(np.arange(len(counts)), counts),
        numbers,
        maps,
        np.array(regions, np.float64).reshape(-1, 4),
        np.array(sizes, np.int64).reshape(-1, 2),
    )
