"""A worker as its owner sees it: a process that is asked and answers."""

import json
import os
import signal
import subprocess
import sys
import tempfile
from types import TracebackType
from typing import Any

__all__ = ["Worker", "WorkerError"]


class WorkerError(Exception):
    """A worker could not do what it was asked to, in a sentence."""


class Worker:
    """A process of its own for one model in one form, so that neither memory nor threads are shared.

    Args:
        threads: that it may compute with; None for what the libraries choose.
    """

    def __init__(self, threads: int | None = None) -> None:
        environment = dict(os.environ)
        if threads is not None:
            environment["OMP_NUM_THREADS"] = str(threads)
        self._log = tempfile.TemporaryFile("w+")  # noqa: SIM115 (what libraries print, as long as the process lives)
        self._folder = tempfile.TemporaryDirectory(prefix="glmix-bench-")
        self._process = subprocess.Popen(
            [sys.executable, "-m", "glmix.bench.worker", self._folder.name],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
            env=environment,
        )

    @property
    def pid(self) -> int:
        return self._process.pid

    def ask(self, do: str, **arguments: Any) -> Any:
        """Have it do something, and wait for the answer."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.write(json.dumps({"do": do, **arguments}) + "\n")
            self._process.stdin.flush()
            line = self._process.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            raise WorkerError(self._last_words())
        answer = json.loads(line)
        if "error" in answer:
            raise WorkerError(answer["error"])
        return answer["value"]

    def _last_words(self) -> str:
        """Why the process is gone."""
        code = self._process.wait()
        if code == -signal.SIGKILL:
            return "the process was killed, as systems do where memory ends"
        self._log.seek(0)
        lines = [line.strip() for line in self._log.read().splitlines() if line.strip()]
        return f"the process ended with code {code}" + (f": {lines[-1]}" if lines else "")

    def close(self) -> None:
        """End the process, whatever it is at."""
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
