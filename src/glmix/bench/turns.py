"""Interleaved measurement of models: they run in turns, so that changes in the machine's speed affect all alike."""

import contextlib
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from .process import Worker, WorkerError

__all__ = ["Entry", "LATENCY_PASSES", "Progress", "take_turns"]

Progress = Callable[[Sequence[Any], str], Iterable[Any]]

PAUSE = 0.01  # seconds between turns, for the threads of the previous worker to become idle
LATENCY_PASSES = 10  # passes with batch size 1 per turn


@dataclass
class Entry:
    """The task of one process and its results.

    Args:
        build: the request that builds the model, with its arguments.
        batch: batch size.
        latency: also measure passes with batch size 1.
        stages: also measure the time of the stages.
        facts: the answer to the build request.
        runs: (start, duration) of each pass in seconds; the clock is the same for all processes.
        latency_runs: the same for passes with batch size 1.
        stage_runs: the time of each stage in seconds, one dictionary per pass.
        memory: peak memory of a pass in MiB.
        profile: the time per operator in a pass, see `profile_pass`.
        error: the reason if the process failed.
    """

    build: dict[str, Any]
    batch: int
    latency: bool = False
    stages: bool = False
    facts: dict[str, Any] = field(default_factory=dict)
    runs: list[tuple[float, float]] = field(default_factory=list)
    latency_runs: list[tuple[float, float]] = field(default_factory=list)
    stage_runs: list[dict[str, float]] = field(default_factory=list)
    memory: float | None = None
    profile: dict[str, Any] | None = None
    error: str | None = None

    @property
    def label(self) -> str:
        return " ".join(str(self.build[key]) for key in ("model", "form", "precision") if key in self.build)


def no_progress(items: Sequence[Any], what: str) -> Iterable[Any]:
    """Return the items without a progress bar."""
    return items


def take_turns(
    entries: Sequence[Entry],
    *,
    runs: int,
    latency_runs: int = 0,
    profile: bool = False,
    device: str = "cpu",
    threads: int | None = None,
    build_jobs: int = 1,
    progress: Progress = no_progress,
) -> None:
    """Measure all entries in turns and store the results in them.

    If an entry fails, its `error` is set and the others continue.

    Args:
        entries: the tasks.
        runs: number of timed passes per entry.
        latency_runs: number of timed passes with batch size 1.
        profile: profile one pass of each entry and measure nothing else.
        device: cpu or cuda.
        threads: number of CPU threads; None for the default of the libraries.
        build_jobs: number of models that are built at the same time.
        progress: wraps the loops to show their progress.
    """
    with contextlib.ExitStack() as stack:

        def build(entry: Entry) -> tuple[Entry, Worker]:
            worker = stack.enter_context(Worker(threads))
            with _recording_errors(entry, worker):
                entry.facts = worker.ask(device=device, threads=threads, **entry.build)
                entry.facts["warm_seconds"] = sum(worker.ask("warm", batch=batch) for batch in _batches(entry))
            return entry, worker

        pool = ThreadPoolExecutor(build_jobs)
        try:
            built = pool.map(build, entries)
            workers = [pair for _, pair in zip(progress(entries, "building"), built, strict=True)]
        finally:
            pool.shutdown(wait=False, cancel_futures=True)  # after Ctrl-C, the ExitStack ends the workers
        workers = [(entry, worker) for entry, worker in workers if entry.error is None]
        if profile:
            for entry, worker in workers:
                with _recording_errors(entry, worker):
                    entry.profile = worker.ask("profile", batch=entry.batch)
            return

        def run(entry: Entry, worker: Worker) -> None:
            entry.runs += [tuple(run) for run in worker.ask("turn", batch=entry.batch)]
            if entry.stages:
                entry.stage_runs.append(worker.ask("stages", batch=entry.batch))

        def run_single(entry: Entry, worker: Worker) -> None:
            count = min(LATENCY_PASSES, latency_runs - len(entry.latency_runs))
            entry.latency_runs += [tuple(run) for run in worker.ask("turn", batch=1, count=count)]

        single = [(entry, worker) for entry, worker in workers if entry.latency]
        _in_turn(workers, runs, "passes", progress, run)
        _in_turn(single, -(-latency_runs // LATENCY_PASSES), "single images", progress, run_single)
        for entry, worker in workers:
            if entry.error is None and "model" in entry.build:
                with _recording_errors(entry, worker):
                    entry.memory = worker.ask("memory", batch=entry.batch)


def _batches(entry: Entry) -> list[int]:
    return sorted({entry.batch, 1} if entry.latency else {entry.batch}, reverse=True)


def _in_turn(
    workers: Sequence[tuple[Entry, Worker]],
    rounds: int,
    what: str,
    progress: Progress,
    job: Callable[[Entry, Worker], None],
) -> None:
    """Run the job once per round for each entry that has not failed."""
    for entry, worker in progress([pair for _ in range(rounds) for pair in workers], what):
        if entry.error is None:
            time.sleep(PAUSE)
            with _recording_errors(entry, worker):
                job(entry, worker)


@contextlib.contextmanager
def _recording_errors(entry: Entry, worker: Worker) -> Iterator[None]:
    """Store a failure of the worker in its entry, and end the worker to free its memory."""
    try:
        yield
    except WorkerError as error:
        entry.error = str(error)
        worker.close()
