"""Signal handling in data loading workers."""

import os
import signal
import threading

__all__ = ["leave_signals_to_main_process"]


def leave_signals_to_main_process(worker_id: int) -> None:
    """Ignore termination signals in a worker (a worker_init_fn), so that the main process can finish its step and save.

    A terminal, `timeout` and most schedulers send SIGINT, SIGTERM or SIGUSR1 to every process of a training. A worker
    still ends with the main process: torch's worker loop detects when the main process is gone, and a SIGTERM from the
    main process ends the worker. On platforms where the sender of a signal is unknown (macOS, Windows), only SIGINT is
    ignored.
    """
    if not hasattr(signal, "sigwaitinfo"):
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        return
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM, signal.SIGUSR1})
    threading.Thread(target=_exit_on_sigterm_from, args=(os.getppid(),), daemon=True).start()


def _exit_on_sigterm_from(main_process: int) -> None:
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != main_process:
        pass
    os._exit(0)
