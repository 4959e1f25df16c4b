"""The inference pipeline: decode images in worker processes, compute in batches, and return or store the results."""

import json
import os
import time
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

import torch

from ..memory import is_out_of_memory
from .loading import BatchPositions, LoadedBatch, default_workers, load_batches, out_of_memory_reason
from .outputs import Output, Row
from .results import ResultFolder, Shard
from .sources import Source

if TYPE_CHECKING:
    from .ray_engine import RayEngine

__all__ = ["Summary", "run", "run_to_folder", "share_of_process"]


@dataclass(frozen=True)
class Summary:
    """Result of `run_to_folder`.

    Args:
        images: number of images in the results of this process, with those of earlier runs.
        errors: number of these that have an error.
        computed: number of images that this run computed.
        seconds: time of this run, without loading the model.
        images_per_second: `computed` by `seconds`.
    """

    images: int
    errors: int
    computed: int
    seconds: float
    images_per_second: float

    def json(self) -> str:
        return json.dumps(asdict(self))


def run(
    output: Output,
    source: Source,
    *,
    batch_size: int = 32,
    num_workers: int | None = None,
    ranges: Sequence[range] | None = None,
) -> Iterator[list[Row]]:
    """Compute an output for images.

    Args:
        output: what to compute, with its model.
        source: images, see `open_source`.
        batch_size: maximum number of images in a forward pass. Inputs of different sizes have separate passes.
        num_workers: processes that decode images; None for `default_workers`.
        ranges: ranges of positions in `source`; None for all images.

    Yields:
        The rows of a batch, in the order of the source. Each has `key`, `width`, `height`, `error` (None for success),
        `input_width`, `input_height`, and the columns of the output, which are missing if there was an error.
    """
    ranges = [range(len(source))] if ranges is None else ranges
    workers = default_workers(sum(map(len, ranges)), batch_size) if num_workers is None else num_workers
    device = next((parameter.device for parameter in output.model.parameters()), torch.device("cpu"))
    loader = load_batches(
        source,
        ranges,
        output.read,
        batch_size=batch_size,
        num_workers=workers,
        pin_memory=device.type == "cuda",
    )
    for batch in loader:
        yield compute_batch(output, batch)


def compute_batch(output: Output, batch: LoadedBatch) -> list[Row]:
    """Return the rows of decoded images with the results of their inputs."""
    rows: list[Row] = batch.rows
    for places, inputs in batch.groups:
        for chosen, results in _compute_group(output, places, inputs):
            for place, result in zip(chosen, results, strict=True):
                height, width = inputs.shape[-2:]
                rows[place] |= {"input_width": width, "input_height": height, **result}
    return rows


def _compute_group(
    output: Output, places: Sequence[int], inputs: torch.Tensor
) -> Iterator[tuple[Sequence[int], list[Row]]]:
    """Yield places and their results; if the memory is exhausted, compute half of the inputs at a time."""
    try:
        with torch.inference_mode():
            results = output.compute(inputs)
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        reason = out_of_memory_reason(error)
    else:
        yield places, results
        return
    if len(places) == 1:
        yield places, [{"error": reason}]
        return
    half = len(places) // 2
    yield from _compute_group(output, places[:half], inputs[:half])
    yield from _compute_group(output, places[half:], inputs[half:])


def share_of_process() -> tuple[int, int]:
    """Return the rank of this process and the number of processes, as torchrun sets them."""
    return int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))


def run_to_folder(
    output: Output,
    source: Source,
    folder: ResultFolder,
    *,
    batch_size: int = 32,
    num_workers: int | None = None,
    share: tuple[int, int] | None = None,
    engine: "RayEngine | None" = None,
    progress: bool = False,
) -> Summary:
    """Compute an output for images and store the results; continue what an earlier run began.

    Results are stored in shards of consecutive images. A shard is written atomically by a thread while the next images
    are computed. A run that was interrupted loses at most the shards that were not finished.

    Args:
        output: see `run`.
        source: see `run`.
        folder: results, opened for this output and source.
        batch_size: see `run`.
        num_workers: see `run`.
        share: (rank, number of processes): which of the shards this process computes; None for the environment
            variables of torchrun. Processes need not communicate.
        engine: computes on Ray; None for `run` in this process. Each continues what the other began.
        progress: show a progress bar.

    Raises:
        OSError: results cannot be written, for example because the disk is full. Run again to continue.
    """
    from tqdm import tqdm

    rank, processes = share_of_process() if share is None else share
    own = folder.shards[rank::processes]
    pending = [shard for shard in own if not shard.path.exists()]
    total = sum(len(shard.positions) for shard in own)
    to_do = sum(len(shard.positions) for shard in pending)
    started, failed = time.perf_counter(), 0
    compute = _run_in_process if engine is None else engine.run
    batches = compute(
        output, source, [shard.positions for shard in pending], batch_size=batch_size, num_workers=num_workers
    )
    unfinished: dict[Shard, dict[int, list[Row]]] = {}
    writing: Future[None] | None = None
    with (
        closing(batches),
        ThreadPoolExecutor(1) as thread,
        tqdm(total=total, initial=total - to_do, unit="image", disable=None if progress else True) as bar,
    ):
        for positions, rows in batches:
            failed += sum(row["error"] is not None for row in rows)
            bar.update(len(rows))
            bar.set_postfix(errors=failed, refresh=False)
            shard = folder.shard_of(positions.start)
            parts = unfinished.setdefault(shard, {})
            parts[positions.start] = rows
            if sum(map(len, parts.values())) < len(shard.positions):
                continue
            del unfinished[shard]
            if writing is not None:
                writing.result()
            writing = thread.submit(folder.write, shard, [row for start in sorted(parts) for row in parts[start]])
        if writing is not None:
            writing.result()
    seconds = time.perf_counter() - started
    errors = sum(1 for _ in folder.errors(own))
    return Summary(total, errors, to_do, seconds, to_do / seconds if to_do else 0.0)


def _run_in_process(
    output: Output, source: Source, ranges: Sequence[range], *, batch_size: int, num_workers: int | None
) -> Generator[tuple[range, list[Row]], None, None]:
    """Yield the positions and the rows of batches."""
    rows = run(output, source, batch_size=batch_size, num_workers=num_workers, ranges=ranges)
    yield from zip(BatchPositions(ranges, batch_size), rows, strict=True)
