"""Initialisation of data loading workers."""

import os
import signal
import sys
import threading
from types import TracebackType

__all__ = ["init_worker"]


def init_worker(worker_id: int) -> None:
    """Ignore termination signals in a worker (a worker_init_fn), so that the main process can finish its step and save.

    A terminal, `timeout` and most schedulers send SIGINT, SIGTERM or SIGUSR1 to every process of a training. A worker
    still ends with the main process: torch's worker loop detects when the main process is gone, and a SIGTERM from the
    main process ends the worker. On platforms where the sender of a signal is unknown (macOS, Windows), only SIGINT is
    ignored. A worker prints no traceback when the main process ends while it receives a tensor.
    """
    sys.excepthook = _report_unless_disconnected
    if not hasattr(signal, "sigwaitinfo"):
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        return
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM, signal.SIGUSR1})
    threading.Thread(target=_exit_on_sigterm_from, args=(os.getppid(),), daemon=True).start()


def _report_unless_disconnected(
    kind: type[BaseException], error: BaseException, traceback: TracebackType | None
) -> None:
    """Print an exception of a background thread. Exceptions of the data set are raised in the main process."""
    if not isinstance(error, ConnectionError | EOFError):
        sys.__excepthook__(kind, error, traceback)


def _exit_on_sigterm_from(main_process: int) -> None:
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != main_process:
        pass
    os._exit(0)
