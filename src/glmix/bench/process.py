"""The client of a worker process: it sends requests and receives answers."""

import json
import os
import signal
import subprocess
import sys
import tempfile
from types import TracebackType
from typing import IO, Any

__all__ = ["Worker", "WorkerError"]


def _start(folder: str, environment: dict[str, str], log: IO[str]) -> "subprocess.Popen[str]":
    """Start a process that reads requests from its standard input."""
    return subprocess.Popen(
        [sys.executable, "-m", "glmix.bench.worker", folder],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=log,
        text=True,
        env=environment,
    )


class WorkerError(Exception):
    """A request to a worker failed; the message is one sentence."""


class Worker:
    """A separate process for one model in one form, so that models share neither memory nor threads.

    Args:
        threads: number of CPU threads; None for the default of the libraries.
    """

    def __init__(self, threads: int | None = None) -> None:
        environment = dict(os.environ)
        if threads is not None:
            environment["OMP_NUM_THREADS"] = str(threads)
        self._log = tempfile.TemporaryFile("w+")  # noqa: SIM115 (output of libraries; open while the process runs)
        self._folder = tempfile.TemporaryDirectory(prefix="glmix-bench-")
        self._process = _start(self._folder.name, environment, self._log)

    @property
    def pid(self) -> int:
        return self._process.pid

    def ask(self, do: str, **arguments: Any) -> Any:
        """Send a request and return the answer.

        Args:
            do: the name of a method of `worker.Session`.
            arguments: its arguments.

        Raises:
            WorkerError: the request failed or the process ended.
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.write(json.dumps({"do": do, **arguments}) + "\n")
            self._process.stdin.flush()
            line = self._process.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            raise WorkerError(self._exit_reason())
        answer = json.loads(line)
        if "error" in answer:
            raise WorkerError(answer["error"])
        return answer["value"]

    def _exit_reason(self) -> str:
        """Return why the process has ended."""
        code = self._process.wait()
        if code == -signal.SIGKILL:
            return "the process was killed, probably because the system ran out of memory"
        self._log.seek(0)
        lines = [line.strip() for line in self._log.read().splitlines() if line.strip()]
        return f"the process ended with code {code}" + (f": {lines[-1]}" if lines else "")

    def close(self) -> None:
        """End the process, by force if necessary."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.close()
            self._process.wait(timeout=5)
        except (BrokenPipeError, subprocess.TimeoutExpired):
            self._process.kill()
            self._process.wait()
        assert self._process.stdout is not None
        self._process.stdout.close()
        self._log.close()
        self._folder.cleanup()

    def __enter__(self) -> "Worker":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if isinstance(error, KeyboardInterrupt):
            self._process.kill()
        self.close()
