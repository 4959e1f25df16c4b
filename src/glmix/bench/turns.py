"""Models in forms that take turns: one passes while the others sleep, run by run, so that all see the same machine."""

import contextlib
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from .process import Worker, WorkerError

__all__ = ["Entry", "LATENCY_PASSES", "Progress", "take_turns"]

Progress = Callable[[Sequence[Any], str], Iterable[Any]]

PAUSE = 0.01  # seconds between turns, in which the threads of the one before come to rest
LATENCY_PASSES = 10  # of one image, in a turn


@dataclass
class Entry:
    """What is measured in one process, and what was found.

    Args:
        build: what the worker is asked to make, and with which arguments.
        batch: images of a pass.
        latency: measure passes of one image, too.
        stages: time its stages, too.
        facts: what the worker said of what it made.
        runs: (when it began, seconds) of each pass, by the clock of the machine.
        latency_runs: the same, of passes of one image.
        stage_runs: seconds of the stages, a pass each.
        memory: MiB that a pass adds at its peak.
        profile: the operators of a pass, as a table.
        error: why there are no more results.
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
    profile: str | None = None
    error: str | None = None

    @property
    def label(self) -> str:
        return " ".join(str(self.build[key]) for key in ("model", "form", "precision") if key in self.build)


def plainly(items: Sequence[Any], what: str) -> Iterable[Any]:
    """Without a progress bar."""
    return items


def take_turns(
    entries: Sequence[Entry],
    *,
    runs: int,
    latency_runs: int = 0,
    profile: bool = False,
    device: str = "cpu",
    threads: int | None = None,
    progress: Progress = plainly,
) -> None:
    """Measure all entries and note in each what was found; one that fails says why, and the others go on."""
    with contextlib.ExitStack() as stack:
        workers: list[tuple[Entry, Worker]] = []
        for entry in progress(entries, "building"):
            worker = stack.enter_context(Worker(threads))
            with _noting(entry, worker):
                entry.facts = worker.ask(device=device, threads=threads, **entry.build)
                entry.facts["warm_seconds"] = sum(worker.ask("warm", batch=batch) for batch in _batches(entry))
                workers.append((entry, worker))
        if profile:
            for entry, worker in workers:
                with _noting(entry, worker):
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
                with _noting(entry, worker):
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
    """Each that has not failed does its job, once a round."""
    for entry, worker in progress([pair for _ in range(rounds) for pair in workers], what):
        if entry.error is None:
            time.sleep(PAUSE)
            with _noting(entry, worker):
                job(entry, worker)


@contextlib.contextmanager
def _noting(entry: Entry, worker: Worker) -> Iterator[None]:
    """One that fails says so in its row, and its memory is free for the others."""
    try:
        yield
    except WorkerError as error:
        entry.error = str(error)
        worker.close()
