"""The process that one model in one form lives in: it does what it is told, a line of JSON each, and sleeps between.

    python -m glmix.bench.worker FOLDER

reads requests from standard input and ends with it. A request names a method of `Session` and its arguments; the
answer is {"value": ...}, or {"error": a sentence}.
"""

import contextlib
import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

import torch

import glmix  # noqa: F401  (registers the models)

from ..compat import compile_for_each_shape
from ..errors import InputError
from .forms import Form
from .macs import count_by_kind
from .memory import added_memory, release_freed_memory, settle_memory
from .passes import matmul_passes, prepare, prepare_training
from .prepared import Pass, Prepared
from .specs import ModelSpec
from .stages import stage_seconds

SHORT = 0.25  # seconds; a pass shorter than that is preceded by one that is not timed

Json = dict[str, Any]


class Session:
    """What a worker knows between requests."""

    prepared: Prepared

    def __init__(self, folder: Path) -> None:
        self.folder = folder  # for files, as long as the process lives
        self.device = "cpu"
        self.passes: dict[int, Pass] = {}
        self.last: dict[int, float] = {}
        self.first_memory: dict[int, float | None] = {}

    def build(
        self,
        model: str,
        form: str,
        size: tuple[int, int],
        device: str = "cpu",
        threads: int | None = None,
        training: bool = False,
    ) -> Json:
        """Make the model; says what it has and does."""
        self._settle(device, threads)
        start = time.perf_counter()
        spec, chosen, (height, width) = ModelSpec.parse(model), Form.parse(form, training=training), size
        if training:
            self.prepared = prepare_training(spec, chosen, (height, width), device=device)
        else:
            options: Json = {"device": device, "threads": threads, "folder": self.folder}
            self.prepared = prepare(spec, chosen, (height, width), **options)
        seconds = time.perf_counter() - start
        counted = spec.build("meta", (height, width))
        kinds = count_by_kind(counted, (spec.input_size()[0], height, width))
        return {
            "parameters": sum(parameter.numel() for parameter in counted.parameters()),
            "macs": sum(count for kind, count in kinds.items() if kind != "softmax"),
            "macs_by_kind": kinds,
            "build_seconds": seconds,
        }

    def build_matmul(self, precision: str, device: str = "cpu", threads: int | None = None) -> Json:
        """Make the product of matrices that stands beside the models."""
        self._settle(device, threads)
        self.prepared, macs = matmul_passes(precision, device)
        return {"macs": macs}

    def _settle(self, device: str, threads: int | None) -> None:
        self.device = device
        if threads is not None:
            torch.set_num_threads(threads)
        # one kernel for each size of image, as in a program that knows its size
        compile_for_each_shape()

    def warm(self, batch: int) -> float:
        """The first two passes over a batch, in which kernels are built; returns the seconds that it took."""
        start = time.perf_counter()
        run = self.passes[batch] = self.prepared.passes(batch)
        if self.prepared.keeps:
            release_freed_memory()
            self.first_memory[batch] = added_memory(run, self.device)
        else:
            run()
        self._time(batch)
        return time.perf_counter() - start

    def turn(self, batch: int, count: int = 1) -> list[tuple[float, float]]:
        """Some passes: when each began, by the clock of the machine, and the seconds that it took."""
        if self.last[batch] < SHORT:
            self.passes[batch]()
        return [self._time(batch) for _ in range(count)]

    def _time(self, batch: int) -> tuple[float, float]:
        start = time.perf_counter()
        self.passes[batch]()
        self.last[batch] = time.perf_counter() - start
        return start, self.last[batch]

    def memory(self, batch: int) -> float | None:
        """MiB that a pass adds at its peak. Nothing is to be timed afterwards."""
        if batch in self.first_memory:
            return self.first_memory[batch]
        settle_memory()
        if self.prepared.release is not None:
            self.prepared.release()
        self.passes[batch]()
        if self.prepared.release is not None:
            self.prepared.release()
        settle_memory()
        return added_memory(self.passes[batch], self.device)

    def stages(self, batch: int) -> dict[str, float]:
        """Seconds of each stage in one pass."""
        if self.last[batch] < SHORT:
            self.passes[batch]()
        return stage_seconds(self.prepared.network, self.passes[batch], self.device)

    def profile(self, batch: int, rows: int = 20) -> str:
        """Where the time of a pass goes, operator by operator."""
        from torch.profiler import ProfilerActivity, profile

        if self.prepared.network is None:
            raise InputError("only what runs in PyTorch can be profiled by its operators.")
        activities = [ProfilerActivity.CPU] + ([ProfilerActivity.CUDA] if self.device != "cpu" else [])
        with profile(activities=activities) as profiler:
            self.passes[batch]()
        key = "self_cpu_time_total" if self.device == "cpu" else "self_device_time_total"
        return profiler.key_averages().table(sort_by=key, row_limit=rows, max_name_column_width=48)


def sentence(error: BaseException) -> str:
    """What went wrong, in a line."""
    text = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
    if isinstance(error, torch.OutOfMemoryError | MemoryError) or "can't allocate memory" in text:
        return "out of memory"
    if isinstance(error, ValueError | ImportError | OSError) and text:
        return text
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def main() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the process that gives the orders ends this one
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000")  # where memory ends, this process goes, and no other
    # what libraries print must not get between the answers
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    session = Session(Path(sys.argv[1]))
    for line in sys.stdin:
        request = json.loads(line)
        try:
            answer = {"value": getattr(session, request.pop("do"))(**request)}
        except Exception as error:  # whatever a model, a compiler or a runtime raises is said in its row
            answer = {"error": sentence(error)}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


if __name__ == "__main__":
    main()
