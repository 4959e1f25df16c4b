"""Process-wide state during training: log output, exceptions for signals, and restoring global settings."""

import contextlib
import logging
import os
import random
import signal
import threading
import warnings
from collections.abc import Iterator

import numpy as np
import torch
from lightning.pytorch.utilities.exceptions import SIGTERMException

__all__ = ["in_main_thread", "quiet", "restore_process_state", "standard_signal_exceptions"]


def in_main_thread() -> bool:
    """Return whether this is the main thread, the only one that can set signal handlers."""
    return threading.current_thread() is threading.main_thread()


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Hide informational messages and some warnings of Lightning, and print each warning on one line."""
    loggers = [
        logging.getLogger(f"lightning.pytorch.{name}")
        for name in ("utilities.rank_zero", "trainer.connectors.checkpoint_connector")
    ]
    levels = [logger.level for logger in loggers]
    format_before = warnings.formatwarning
    with warnings.catch_warnings():
        for message in (
            ".*does not have many workers.*",
            ".*smaller than the logging interval.*",
            ".*in eval mode at the start of training.*",  # the EMA model is in evaluation mode
            ".*set_vital.*",
            ".*sync_dist=True.*",  # the metrics synchronise themselves
            ".*LeafSpec.*",
            ".*worker processes in total.*",  # once per loader; `glmix fit` warns once
        ):
            warnings.filterwarnings("ignore", message=message)
        warnings.formatwarning = _one_line
        for logger in loggers:
            logger.setLevel(logging.WARNING)
        try:
            yield
        finally:
            warnings.formatwarning = format_before
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)


def _one_line(
    message: Warning | str, category: type[Warning], filename: str, lineno: int, line: str | None = None
) -> str:
    return f"Warning: {message}\n"


@contextlib.contextmanager
def restore_process_state() -> Iterator[None]:
    """Restore global state after training, also after an exception.

    Restores signal handlers, environment variables, the states of the random number generators, and torch's settings
    for deterministic algorithms and cuDNN benchmarking.
    """
    # torch sets its SIGCHLD handler once per process, to detect dead workers
    numbers = signal.valid_signals() - {signal.SIGCHLD} if in_main_thread() else set()
    handlers = {number: signal.getsignal(number) for number in numbers}
    environment = dict(os.environ)
    python_state, numpy_state = random.getstate(), np.random.get_state()
    deterministic = torch.are_deterministic_algorithms_enabled()
    warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
    benchmark = torch.backends.cudnn.benchmark
    devices = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else []
    try:
        with torch.random.fork_rng(devices):
            yield
    finally:
        torch.backends.cudnn.benchmark = benchmark
        torch.use_deterministic_algorithms(deterministic, warn_only=warn_only)
        random.setstate(python_state)
        np.random.set_state(numpy_state)
        for name in os.environ.keys() - environment.keys():
            del os.environ[name]
        os.environ.update(environment)
        for number, handler in handlers.items():
            if handler is not None and signal.getsignal(number) is not handler:
                signal.signal(number, handler)


@contextlib.contextmanager
def standard_signal_exceptions() -> Iterator[None]:
    """Replace the exceptions that Lightning raises for signals by the standard ones.

    Raises:
        KeyboardInterrupt: for SIGINT, where Lightning exits with code 1.
        SystemExit: for SIGTERM, with exit code 143, where Lightning exits with code 0.
    """
    try:
        yield
    except SIGTERMException as error:
        raise SystemExit(128 + signal.SIGTERM) from error
    except SystemExit as error:
        if isinstance(error.__context__, KeyboardInterrupt):
            raise KeyboardInterrupt from error
        raise
