"""Signals in the processes that load data."""

import os
import signal
import threading

__all__ = ["leave_signals_to_main_process"]


def leave_signals_to_main_process(worker_id: int) -> None:
    """Ignore signals that ask a training to end (a worker_init_fn): the main process finishes its step and saves first.

    A terminal, `timeout` and most schedulers send SIGINT, SIGTERM or SIGUSR1 to every process of a training. A worker
    still ends with the main process: torch's loop in the worker notices when that process is gone, and a SIGTERM from
    the main process itself ends the worker. Where the sender of a signal cannot be known (macOS, Windows), only SIGINT
    is ignored.
    """
    if not hasattr(signal, "sigwaitinfo"):
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        return
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM, signal.SIGUSR1})
    threading.Thread(target=_end_if_main_process_asks, args=(os.getppid(),), daemon=True).start()


def _end_if_main_process_asks(main_process: int) -> None:
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != main_process:
        pass
    os._exit(0)
