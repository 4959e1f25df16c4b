"""Decoding of images in worker processes, in batches that never contain images of two shards."""

import functools
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from ..data.core.workers import init_worker
from ..errors import InputError
from ..memory import is_out_of_memory
from .sources import Source

Reader = Callable[[Path | BinaryIO], tuple[Any, tuple[int, int]]]

__all__ = [
    "BatchPositions",
    "Images",
    "LoadedBatch",
    "collate",
    "default_workers",
    "load_batches",
    "out_of_memory_reason",
]


@dataclass
class LoadedBatch:
    """Decoded images of a batch.

    Args:
        rows: one row per image with `key`, `width`, `height` and `error`. The last is None for decoded images.
        groups: inputs (B, C, H, W) of equal size, or one list of inputs of any size, with the positions of their images
            in `rows`.
    """

    rows: list[dict[str, Any]]
    groups: list[tuple[list[int], Any]]

    def pin_memory(self) -> "LoadedBatch":
        """Copy the inputs to pinned memory. The DataLoader calls this before a transfer to a GPU."""
        self.groups = [(positions, _pinned(inputs)) for positions, inputs in self.groups]
        return self


def _pinned(inputs: Any) -> Any:
    if isinstance(inputs, list):
        return [_pinned(item) for item in inputs]
    return inputs.pin_memory() if isinstance(inputs, Tensor) else inputs


class Images(Dataset[Any]):
    """Decoded images with random access. An image that cannot be read has a row with its error and no input.

    Args:
        source: images.
        read: see `load_batches`.
    """

    def __init__(self, source: Source, read: Reader) -> None:
        self.source, self.read = source, read

    def __getitem__(self, index: int) -> tuple[dict[str, Any], Any]:
        row: dict[str, Any] = {"key": self.source.key(index), "width": None, "height": None, "error": None}
        try:
            pixels, (row["width"], row["height"]) = self.read(self.source.read(index))
            return row, pixels
        except (InputError, OSError) as error:  # OSError: a missing file, or a failed download
            row["error"] = str(error)
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            row["error"] = out_of_memory_reason(error)
        return row, None


def out_of_memory_reason(error: BaseException) -> str:
    """Return the first line of an out-of-memory error as the reason of a failure."""
    return f"out of memory ({str(error).strip().partition(chr(10))[0] or type(error).__name__})"


def collate(samples: Sequence[tuple[dict[str, Any], Any]], any_size: bool = False) -> LoadedBatch:
    """Join images to a batch; see `load_batches`."""
    if any_size:
        decoded = [place for place, (_, pixels) in enumerate(samples) if pixels is not None]
        inputs = [samples[place][1] for place in decoded]
        return LoadedBatch([row for row, _ in samples], [(decoded, inputs)] if decoded else [])
    places: dict[torch.Size, list[int]] = {}
    for place, (_, pixels) in enumerate(samples):
        if pixels is not None:
            places.setdefault(pixels.shape, []).append(place)
    groups = [(chosen, torch.stack([samples[place][1] for place in chosen])) for chosen in places.values()]
    return LoadedBatch([row for row, _ in samples], groups)


class BatchPositions(Sequence[Any]):
    """Ranges of positions, cut into batches. No batch contains positions of two ranges.

    Args:
        ranges: ranges of positions in a source.
        batch_size: maximum number of positions in a batch.
    """

    def __init__(self, ranges: Sequence[range], batch_size: int) -> None:
        if batch_size < 1:
            raise InputError(f"batch_size must be at least 1, got {batch_size}.")
        self.ranges, self.batch_size = ranges, batch_size
        self._ends = np.cumsum([-(-len(positions) // batch_size) for positions in ranges], dtype=np.int64)

    def __len__(self) -> int:
        return int(self._ends[-1]) if len(self._ends) else 0

    def __getitem__(self, number: Any) -> Any:
        """Return the positions of a batch."""
        if not 0 <= number < len(self):
            raise IndexError(number)
        place = int(np.searchsorted(self._ends, number, side="right"))
        start = (number - (int(self._ends[place - 1]) if place else 0)) * self.batch_size
        return self.ranges[place][start : start + self.batch_size]


def default_workers(images: int, batch_size: int) -> int:
    """Return the number of worker processes: none for a few batches, else one for each CPU core, but at most 16."""
    if images <= 4 * batch_size:
        return 0
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(cores, 16)


def load_batches(
    source: Source,
    ranges: Sequence[range],
    read: Reader,
    *,
    batch_size: int = 32,
    num_workers: int = 0,
    pin_memory: bool = False,
    any_size: bool = False,
) -> Iterable[LoadedBatch]:
    """Return the decoded images of ranges of positions, in order.

    Args:
        source: images.
        ranges: ranges of positions in `source`. No batch contains images of two ranges.
        read: function from an image file, or its content, to the input (C, H, W) and the (width, height) of the image.
        batch_size: maximum number of images in a batch.
        num_workers: worker processes.
        pin_memory: copy the inputs to pinned memory.
        any_size: return the inputs of a batch as one list, instead of a tensor for each size.
    """
    return DataLoader(
        Images(source, read),
        batch_sampler=BatchPositions(ranges, batch_size),
        collate_fn=functools.partial(collate, any_size=any_size),
        num_workers=num_workers,
        pin_memory=pin_memory,
        worker_init_fn=init_worker if num_workers else None,
    )
