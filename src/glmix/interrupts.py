"""Delayed KeyboardInterrupt, because Python's locks and thread pools may deadlock if it is raised inside them."""

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType

__all__ = ["delay_interrupt"]


@contextlib.contextmanager
def delay_interrupt() -> Iterator[None]:
    """Raise KeyboardInterrupt (Ctrl-C) at the end of the block instead of inside it, and a second one at once.

    A block must be short. There is no effect outside the main thread, or if SIGINT has another handler.

    Raises:
        KeyboardInterrupt: Ctrl-C was pressed during the block.
    """
    in_main_thread = threading.current_thread() is threading.main_thread()
    if not in_main_thread or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield
        return
    received = False

    def receive(signum: int, frame: FrameType | None) -> None:
        nonlocal received
        if received:
            raise KeyboardInterrupt
        received = True

    signal.signal(signal.SIGINT, receive)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if received:
        raise KeyboardInterrupt
