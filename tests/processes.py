"""Processes that run `glmix` without the seconds that a new process takes to import torch and Lightning.

One server process per test process imports the packages and forks a process for each command. A forked process has its
own signals, files, memory and exit code, but it shares the hash seed of the server. A test for which the start of
Python itself matters (hash seed, locale, environment variables that are read at import) uses `subprocess`.
"""

import atexit
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TextIO

_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(["glmix.tasks.cli", "glmix.tasks", "glmix_cli"])

# `code` of a process in which Lightning and torchdata are not installed
WITHOUT_LIGHTNING = """
import sys, glmix
for part in ("data", "demo", "tasks", "training"):
    vars(glmix).pop(part, None)
    for name in [name for name in sys.modules if f"{name}.".startswith((f"glmix.{part}.", "lightning.", "torchdata."))]:
        del sys.modules[name]
sys.modules["lightning"] = sys.modules["torchdata"] = None
"""

# `code` of a process that trains with PyTorch's layers alone, without the seconds that compiling kernels takes
WITHOUT_COMPILER = "import glmix.layers.kernels; glmix.layers.kernels.has_cpp_compiler = lambda: False"


class Command:
    """A running `glmix ...`, with the methods of `subprocess.Popen` that the tests use.

    Args:
        arguments: the command-line arguments after `glmix`.
        cwd: the working directory; None for the current one.
        env: environment variables that are added.
        merge: send stderr to stdout.
        new_session: start a new process group.
        code: Python code that runs before the command, or alone if there are no arguments.
        talk: open a pipe to stdin.
    """

    def __init__(
        self,
        *arguments: object,
        cwd: Path | None = None,
        env: Mapping[str, str] | None = None,
        merge: bool = False,
        new_session: bool = False,
        code: str = "",
        talk: bool = False,
    ) -> None:
        child_in, into = _CONTEXT.Pipe(duplex=False) if talk else (None, None)
        out, child_out = _CONTEXT.Pipe(duplex=False)
        err, child_err = (out, child_out) if merge else _CONTEXT.Pipe(duplex=False)
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", **(env or {})}
        words = [os.fspath(word) if isinstance(word, Path) else str(word) for word in arguments]
        target = (words, str(cwd or Path.cwd()), environment, new_session, code, child_in, child_out, child_err)
        self._process = _CONTEXT.Process(target=_run, args=target)
        self._process.start()
        atexit.register(self.kill)
        for end in (child_in, child_out, child_err):
            if end is not None:
                end.close()
        self.pid = self._process.pid or 0
        self.stdin = None if into is None else _text(into, "w")
        self.stdout = _text(out)
        self.stderr = None if merge else _text(err)

    @property
    def returncode(self) -> int | None:
        return self._process.exitcode

    def poll(self) -> int | None:
        return self._process.exitcode

    def send_signal(self, signum: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, signum)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def wait(self, timeout: float | None = None) -> int | None:
        self._process.join(timeout)
        if self.poll() is None:
            raise subprocess.TimeoutExpired("glmix", timeout or 0)
        return self.poll()

    def communicate(self, timeout: float = 300) -> tuple[str, str]:
        """Wait for the end of the process, and return what it has written to stdout and stderr."""
        texts = ["", ""]

        def read(index: int, stream: TextIO | None) -> None:
            texts[index] = stream.read() if stream and not stream.closed else ""

        readers = [threading.Thread(target=read, args=item) for item in enumerate((self.stdout, self.stderr))]
        for reader in readers:
            reader.start()
        try:
            self.wait(timeout)
        except subprocess.TimeoutExpired:
            self.kill()
            raise
        for reader in readers:
            reader.join(timeout)
        return texts[0], texts[1]


def bench_worker(folder: str, environment: Mapping[str, str], log: object) -> Command:
    """Start a worker of `glmix bench`; a replacement for `glmix.bench.process._start`."""
    code = f"import sys; from glmix.bench import worker; sys.argv = ['worker', {folder!r}]; worker.main()"
    return Command(code=code, env=environment, talk=True)


def _text(connection: Connection, mode: str = "r") -> TextIO:
    return open(os.dup(connection.fileno()), mode, encoding="utf-8", errors="surrogateescape")


def _run(
    words: list[str],
    cwd: str,
    environment: dict[str, str],
    new_session: bool,
    code: str,
    into: Connection | None,
    out: Connection,
    err: Connection,
) -> None:
    if new_session:
        os.setsid()
    if into is not None:
        os.dup2(into.fileno(), 0)
        sys.stdin = open(0, encoding="utf-8", closefd=False)  # noqa: SIM115
        into.close()
    os.dup2(out.fileno(), 1)
    os.dup2(err.fileno(), 2)
    sys.stdout = sys.__stdout__ = open(1, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
    sys.stderr = sys.__stderr__ = open(2, "w", encoding="utf-8", closefd=False, buffering=1)  # noqa: SIM115
    out.close()
    err.close()
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(environment)
    multiprocessing.set_start_method("fork", force=True)  # for the workers of data loaders, as in other processes
    import torch

    import glmix_cli

    torch.set_num_threads(1)
    exec(code, {"__name__": "code"})
    if words:
        sys.argv = ["glmix", *words]
        sys.exit(glmix_cli.main())
