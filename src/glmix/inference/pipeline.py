"""The inference pipeline: decode images in worker processes, compute in batches, and return or store the results."""

import json
import os
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Self

import torch

from ..errors import InputError
from ..interrupts import delay_interrupt
from ..memory import is_out_of_memory
from .loading import BatchPositions, LoadedBatch, default_workers, load_batches, out_of_memory_reason
from .outputs import Output, Row
from .results import ResultFolder, Shard
from .sources import Source

if TYPE_CHECKING:
    from .ray_engine import RayEngine

__all__ = ["Summary", "run", "run_to_folder", "share_of_process"]

SAVING_THREADS = 4  # they mostly compress PNG files, which releases the GIL


@dataclass(frozen=True)
class Summary:
    """Result of `run_to_folder`.

    Args:
        images: number of images in the results of this process, including earlier runs.
        errors: number of these images that have an error.
        computed: number of images that this run computed.
        seconds: time of this run, without loading the model.
        images_per_second: `computed` / `seconds`.
    """

    images: int
    errors: int
    computed: int
    seconds: float
    images_per_second: float

    def json(self) -> str:
        return json.dumps(asdict(self))

    def cost_per_million(self, price_per_hour: float) -> float:
        """Return the cost of a million images at the rate of this run, for a price of the machine per hour."""
        return 1e6 / self.images_per_second / 3600 * price_per_hour


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
        any_size=output.any_size,
    )
    for batch in loader:
        yield compute_batch(output, batch)


def compute_batch(output: Output, batch: LoadedBatch) -> list[Row]:
    """Return the rows of decoded images with the results of their inputs."""
    rows: list[Row] = batch.rows
    for places, inputs in batch.groups:
        sizes = {place: item.shape[-2:] for place, item in zip(places, inputs, strict=True)}
        for chosen, results in _compute_group(output, places, inputs):
            for place, result in zip(chosen, results, strict=True):
                height, width = sizes[place]
                rows[place] |= {"input_width": width, "input_height": height, **result}
    return rows


def _compute_group(output: Output, places: Sequence[int], inputs: Any) -> Iterator[tuple[Sequence[int], list[Row]]]:
    """Yield places and their results. Compute half at a time after an out-of-memory or input error."""
    try:
        with torch.inference_mode():
            results = output.compute(inputs)
    except InputError as error:
        reason = str(error)
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


class _ShardWriter:
    """Writes shards with a pool of threads, which is shut down at the end of the context.

    Args:
        folder: the results.
        save: see `run_to_folder`.
    """

    def __init__(self, folder: ResultFolder, save: Callable[[int, Row], None] | None) -> None:
        self.folder, self.save = folder, save
        self._threads = ThreadPoolExecutor(SAVING_THREADS if save else 1)
        self._unfinished: dict[Shard, dict[int, list[Row]]] = {}  # rows of each shard by their first position
        self._saving: list[Future[None]] = []
        self._writing: Future[None] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._threads.shutdown()

    def add(self, positions: range, rows: list[Row]) -> None:
        """Save the rows of a batch, and write their shard when it is complete."""
        for future in self._saving:  # wait for the previous batch, to bound the memory
            future.result()
        tasks = list(zip(positions, rows, strict=True))
        if self.save is not None:
            self._saving = [self._threads.submit(self._finish, *task) for task in tasks]
        else:
            for task in tasks:
                self._finish(*task)
        shard = self.folder.shard_of(positions.start)
        parts = self._unfinished.setdefault(shard, {})
        parts[positions.start] = rows
        if sum(map(len, parts.values())) == len(shard.positions):
            del self._unfinished[shard]
            self.wait()
            of_shard = [row for start in sorted(parts) for row in parts[start]]
            self._writing = self._threads.submit(self._write, shard, of_shard, self._saving)

    def wait(self) -> None:
        """Wait until all complete shards are written."""
        if self._writing is not None:
            self._writing.result()

    def _finish(self, position: int, row: Row) -> None:
        """Call `save`, and remove what is not stored from the row."""
        if self.save is not None and row["error"] is None:
            self.save(position, row)
        for name in row.keys() - self.folder.all_columns:
            del row[name]

    def _write(self, shard: Shard, rows: Sequence[Row], saving: Sequence[Future[None]]) -> None:
        """Write a shard after the files of its last batch, which earlier tasks of the same threads write."""
        for task in saving:
            task.result()
        self.folder.write(shard, rows)


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
    save: Callable[[int, Row], None] | None = None,
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
        save: called in a thread with the position and the row of each image without an error, before its shard is
            written. It writes files, for example a mask, and may change the row.

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
    with (
        closing(batches),
        _ShardWriter(folder, save) as writer,
        tqdm(total=total, initial=total - to_do, unit="image", disable=None if progress else True) as bar,
    ):
        for positions, rows in batches:
            with delay_interrupt():  # the thread pool and the bar have locks
                writer.add(positions, rows)
                failed += sum(row["error"] is not None for row in rows)
                bar.update(len(rows))
                bar.set_postfix(errors=failed, refresh=False)
        writer.wait()
    seconds = time.perf_counter() - started
    errors = sum(1 for _ in folder.errors(own))
    return Summary(total, errors, to_do, seconds, to_do / seconds if to_do else 0.0)


def _run_in_process(
    output: Output, source: Source, ranges: Sequence[range], *, batch_size: int, num_workers: int | None
) -> Generator[tuple[range, list[Row]], None, None]:
    """Yield the positions and the rows of batches."""
    rows = run(output, source, batch_size=batch_size, num_workers=num_workers, ranges=ranges)
    yield from zip(BatchPositions(ranges, batch_size), rows, strict=True)
