"""The worker process for one model in one form. It executes requests, one line of JSON each.

    python -m glmix.bench.worker FOLDER

reads requests from standard input until it is closed. A request names a method of `Session` and its arguments; the
answer is {"value": ...} or {"error": message}.
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

from ..compat import compile_for_each_shape, compile_with_cuda_graphs, record_compiled_kernels
from ..errors import InputError
from ..memory import release_freed_memory, release_memory_at_once
from .forms import Form
from .macs import count_by_kind
from .memory import added_memory
from .passes import matmul_passes, prepare, prepare_training
from .prepared import Pass, Prepared
from .profile import profile_pass
from .specs import ModelSpec
from .stages import stage_seconds

SHORT = 0.25  # seconds; a shorter pass is preceded by a warm-up pass that is not timed

Json = dict[str, Any]


class Session:
    """The state of a worker, and its requests as methods.

    Args:
        folder: a folder for files, which exists while the process runs.
    """

    prepared: Prepared

    def __init__(self, folder: Path) -> None:
        self.folder = folder
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
        profiled: bool = False,
    ) -> Json:
        """Build a model; return its number of parameters, its multiply-accumulates and the duration."""
        self._configure(device, threads)
        if profiled:
            record_compiled_kernels()
        start = time.perf_counter()
        spec, parsed_form, (height, width) = ModelSpec.parse(model), Form.parse(form, training=training), size
        if "cuda_graphs" in parsed_form.words:
            if device == "cpu":
                raise InputError(f"The form {form} needs a GPU, but the device is {device}.")
            compile_with_cuda_graphs()
        if training:
            self.prepared = prepare_training(spec, parsed_form, (height, width), device=device)
        else:
            options: Json = {"device": device, "threads": threads, "folder": self.folder}
            self.prepared = prepare(spec, parsed_form, (height, width), **options)
        seconds = time.perf_counter() - start
        skeleton = spec.build("meta", (height, width))
        kinds = count_by_kind(skeleton, (spec.input_size()[0], height, width))
        return {
            "parameters": sum(parameter.numel() for parameter in skeleton.parameters()),
            "macs": sum(count for kind, count in kinds.items() if kind != "softmax"),
            "macs_by_kind": kinds,
            "build_seconds": seconds,
        }

    def build_matmul(self, precision: str, device: str = "cpu", threads: int | None = None) -> Json:
        """Prepare the reference matrix product; return its multiply-accumulates."""
        self._configure(device, threads)
        self.prepared, macs = matmul_passes(precision, device)
        return {"macs": macs}

    def _configure(self, device: str, threads: int | None) -> None:
        """Set the device and the number of threads."""
        self.device = device
        if threads is not None:
            torch.set_num_threads(threads)
        # compile for each image size separately, as in an application with a fixed image size
        compile_for_each_shape()

    def warm(self, batch: int) -> float:
        """Run two warm-up passes, in which kernels are compiled; return the duration in seconds."""
        start = time.perf_counter()
        run = self.passes[batch] = self.prepared.passes(batch)
        if self.prepared.keeps_memory:
            release_freed_memory()
            self.first_memory[batch] = added_memory(run, self.device)
        else:
            run()
        self._time(batch)
        return time.perf_counter() - start

    def turn(self, batch: int, count: int = 1) -> list[tuple[float, float]]:
        """Run timed passes; return the start and the duration of each in seconds."""
        if self.last[batch] < SHORT:
            self.passes[batch]()
        return [self._time(batch) for _ in range(count)]

    def _time(self, batch: int) -> tuple[float, float]:
        start = time.perf_counter()
        self.passes[batch]()
        self.last[batch] = time.perf_counter() - start
        return start, self.last[batch]

    def memory(self, batch: int) -> float | None:
        """Return the peak memory of a pass in MiB; time measurements afterwards are not valid."""
        if batch in self.first_memory:
            return self.first_memory[batch]
        release_memory_at_once()
        if self.prepared.release is not None:
            self.prepared.release()
        self.passes[batch]()
        if self.prepared.release is not None:
            self.prepared.release()
        release_memory_at_once()
        return added_memory(self.passes[batch], self.device)

    def stages(self, batch: int) -> dict[str, float]:
        """Return the time of each stage in one pass in seconds."""
        if self.last[batch] < SHORT:
            self.passes[batch]()
        return stage_seconds(self.prepared.network, self.passes[batch], self.device)

    def profile(self, batch: int) -> Json:
        """Return the time per operator in one pass, see `profile_pass`."""
        if self.prepared.network is None:
            raise InputError("Only models in PyTorch can be profiled by operator.")
        return profile_pass(self.passes[batch], self.device)


def error_line(error: BaseException) -> str:
    """Return the message of an exception as one line."""
    text = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
    if isinstance(error, torch.OutOfMemoryError | MemoryError) or "can't allocate memory" in text:
        return "out of memory"
    if isinstance(error, ValueError | ImportError | OSError) and text:
        return text
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def main() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent process ends this one
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000")  # let the out-of-memory killer choose this process
    # redirect the output of libraries away from the answers
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    session = Session(Path(sys.argv[1]))
    for line in sys.stdin:
        request = json.loads(line)
        try:
            answer = {"value": getattr(session, request.pop("do"))(**request)}
        except Exception as error:  # report any error of a model, compiler or runtime in its row
            answer = {"error": error_line(error)}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


if __name__ == "__main__":
    main()
