"""The inference pipeline on Ray Data: tasks decode images and actors compute, on one machine or on a cluster."""

import copy
import functools
import logging
import os
import pickle
import socket
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from ..errors import InputError, needs_extra
from ..memory import keep_freed_memory
from .loading import BatchPositions, Images, collate
from .outputs import Output, Row
from .pipeline import compute_batch
from .sources import Source

__all__ = ["RayEngine"]

MOST_TASKS = 10_000  # maximum number of decoding tasks, because Ray keeps a record of each

# Hide the log of Ray's C++ code, because its errors are also raised as exceptions.
ENVIRONMENT = {"RAY_BACKEND_LOG_LEVEL": "fatal"}


@dataclass(frozen=True)
class RayEngine:
    """Computation of an output on Ray: an argument of `run_to_folder`.

    Tasks with one CPU each decode batches, and actors with a copy of the model compute them. The batches are the same
    as with the local engine. Ray repeats the work of processes and machines that fail. Only this process writes
    results, so the machines need no common file system, but each must be able to read the images and to import this
    package.

    Args:
        address: address of a running cluster, such as `10.0.0.1:6379`. None for the environment variable RAY_ADDRESS,
            or a cluster on this machine, which is started for the computation if there is none.
        actors: number of actors, or (smallest, largest) number, between which Ray adds and removes actors; None for as
            many as the GPUs allow or, without GPUs, half of the CPUs.
        cpus: CPUs of an actor without a GPU, and its number of threads.
        gpus: GPUs of an actor, which can be a fraction; None for one if the cluster has GPUs, else none.
    """

    address: str | None = None
    actors: tuple[int, int] | int | None = None
    cpus: int = 1
    gpus: float | None = None

    def run(
        self,
        output: Output,
        source: Source,
        ranges: Sequence[range],
        *,
        batch_size: int = 32,
        num_workers: int | None = None,
    ) -> Generator[tuple[range, list[Row]], None, None]:
        """Yield the positions and the rows of batches as they are finished, in any order.

        Args:
            output: what to compute, with its model on the CPU. The actors move their copies to their devices.
            source: images.
            ranges: ranges of positions in `source`.
            batch_size: maximum number of images in a batch.
            num_workers: largest number of images that are decoded at a time; None for all CPUs of the cluster.

        Raises:
            InputError: there is no such cluster, or it is too small.
            MissingExtraError: Ray is not installed.
        """
        with needs_extra("scale", "the Ray engine"):
            import ray
            import ray.data
        if any(tensor.device.type != "cpu" for tensor in output.model.parameters()):
            raise InputError(
                "The Ray engine needs the model on the CPU (no --device): its actors move it to their GPUs."
            )
        batches = BatchPositions(ranges, batch_size)
        if not batches:
            return
        with _errors_only(), _connected(self.address):
            resources = ray.cluster_resources()
            gpus = float(resources.get("GPU", 0) > 0) if self.gpus is None else self.gpus
            actors = self._actors(resources, gpus)
            any_size = output.any_size
            size = sum(tensor.nbytes for tensor in output.model.state_dict().values())
            work = ray.put((Images(source, output.read), batches))  # once, not for each task

            def decode(row: dict[str, Any]) -> dict[str, Any]:
                images, positions = _fetch(work)
                batch = collate([images[index] for index in positions[row["id"]]], any_size)
                return {"number": row["id"], "content": pickle.dumps(batch, pickle.HIGHEST_PROTOCOL)}

            context = copy.copy(ray.data.DataContext.get_current())
            context.enable_progress_bars = context.print_on_execution_start = False
            with ray.data.DataContext.current(context):
                computed = (
                    ray.data.range(len(batches), override_num_blocks=min(len(batches), MOST_TASKS))
                    .map(decode, num_cpus=1, compute=ray.data.TaskPoolStrategy(num_workers or None))
                    .map(
                        _Actor,
                        fn_constructor_args=(ray.put(output), gpus > 0, self.cpus),
                        compute=ray.data.ActorPoolStrategy(min_size=actors[0], max_size=actors[1]),
                        memory=size,  # different resources also keep Ray from fusing the two stages
                        **({"num_gpus": gpus} if gpus else {"num_cpus": self.cpus}),
                    )
                )
                for row in computed.iter_rows():
                    yield batches[row["number"]], pickle.loads(row["content"])

    def _actors(self, resources: dict[str, float], gpus: float) -> tuple[int, int]:
        """Return the smallest and the largest number of actors."""
        cpus = int(resources.get("CPU", 0))
        possible = int(resources.get("GPU", 0) / gpus) if gpus else cpus // 2 // self.cpus
        actors = max(1, possible) if self.actors is None else self.actors
        smallest, largest = (actors, actors) if isinstance(actors, int) else actors
        if not 1 <= smallest <= largest:
            raise InputError(f"actors must be N or (MIN, MAX) with 1 <= MIN <= MAX, got {smallest}-{largest}.")
        found = {"CPU": cpus, "GPU": resources.get("GPU", 0)}
        needed = {"CPU": 1 + (0 if gpus else smallest * self.cpus), "GPU": smallest * gpus}
        for kind, count in needed.items():
            if found[kind] < count:
                raise InputError(
                    f"The Ray cluster has {found[kind]:g} {kind}s, but {count:g} are needed: one CPU for decoding, and "
                    f"{'GPUs' if gpus else 'CPUs'} for {smallest} actors."
                )
        return smallest, largest


class _Actor:
    """A process with a copy of the model."""

    def __init__(self, reference: Any, on_gpu: bool, threads: int) -> None:
        import ray

        keep_freed_memory()
        torch.set_num_threads(threads)
        self.output: Output = ray.get(reference)
        if on_gpu:
            self.output.to("cuda")

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        rows = compute_batch(self.output, pickle.loads(row["content"]))
        return {"number": row["number"], "content": pickle.dumps(rows, pickle.HIGHEST_PROTOCOL)}


@functools.lru_cache(1)
def _fetch(reference: Any) -> Any:
    """Return an object of Ray's object store. A worker process keeps it for its next tasks."""
    import ray

    return ray.get(reference)


@contextmanager
def _connected(address: str | None) -> Iterator[None]:
    """Connect this process to a cluster, or start one on this machine, unless it is connected already."""
    import ray

    if ray.is_initialized():
        yield
        return
    before = dict(os.environ)
    named = address or before.get("RAY_ADDRESS")
    os.environ.update(ENVIRONMENT | {name: before[name] for name in ENVIRONMENT if name in before})
    try:
        _check_reachable(named)
        ray.init(address, log_to_driver=False, logging_level=logging.ERROR)
    except (OSError, ValueError) as error:  # OSError includes ConnectionError
        place = f"at {named}" if named else "on this machine"
        raise InputError(
            f"There is no Ray cluster {place} ({str(error).strip().partition(chr(10))[0]}), or it needs the variable "
            "RAY_AUTH_MODE=token."
        ) from error
    finally:
        for name in ENVIRONMENT.keys() - before.keys():
            del os.environ[name]
    try:
        yield
    finally:
        ray.shutdown()


def _check_reachable(address: str | None) -> None:
    """Raise OSError if HOST:PORT does not accept connections, because Ray would retry for many minutes."""
    host, _, port = (address or "").removeprefix("ray://").rpartition(":")
    if host and port.isdecimal():
        socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()


@contextmanager
def _errors_only() -> Iterator[None]:
    """Hide the notes and warnings of Ray on this process, which has its own progress bar."""
    loggers = [logging.getLogger("ray"), logging.getLogger("ray.data")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
