"""Decoding of images in worker processes, in batches that never cross the border of two shards."""

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from ..data.core.workers import leave_signals_to_main_process
from ..errors import InputError
from ..memory import is_out_of_memory
from .sources import Source

Reader = Callable[[Path | BinaryIO], tuple[Any, tuple[int, int]]]

__all__ = ["LoadedBatch", "default_workers", "load_batches", "out_of_memory_reason"]


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


class _Images(Dataset[Any]):
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


def _collate_list(samples: Sequence[tuple[dict[str, Any], Any]]) -> LoadedBatch:
    places = [place for place, (_, pixels) in enumerate(samples) if pixels is not None]
    groups = [(places, [samples[place][1] for place in places])] if places else []
    return LoadedBatch([row for row, _ in samples], groups)


def _collate(samples: Sequence[tuple[dict[str, Any], Tensor | None]]) -> LoadedBatch:
    places: dict[torch.Size, list[int]] = {}
    for place, (_, pixels) in enumerate(samples):
        if pixels is not None:
            places.setdefault(pixels.shape, []).append(place)
    groups = [(chosen, torch.stack([samples[place][1] for place in chosen])) for chosen in places.values()]  # type: ignore[misc]
    return LoadedBatch([row for row, _ in samples], groups)


class _BatchPositions:
    """Lists of positions: ranges, cut into batches."""

    def __init__(self, ranges: Sequence[range], batch_size: int) -> None:
        self.ranges, self.batch_size = ranges, batch_size

    def __len__(self) -> int:
        return sum(-(-len(positions) // self.batch_size) for positions in self.ranges)

    def __iter__(self) -> Iterator[list[int]]:
        for positions in self.ranges:
            for start in range(0, len(positions), self.batch_size):
                yield list(positions[start : start + self.batch_size])


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
        _Images(source, read),
        batch_sampler=_BatchPositions(ranges, batch_size),
        collate_fn=_collate_list if any_size else _collate,
        num_workers=num_workers,
        pin_memory=pin_memory,
        worker_init_fn=leave_signals_to_main_process if num_workers else None,
    )
