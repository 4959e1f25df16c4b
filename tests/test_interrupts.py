"""Delayed KeyboardInterrupt."""

import signal
import threading

import pytest

from glmix.interrupts import delay_interrupt


def _interrupted(times: int) -> list[int]:
    """Return the steps of a block that run if each begins with Ctrl-C."""
    done: list[int] = []

    def block() -> None:
        with delay_interrupt(), delay_interrupt():
            for step in range(times):
                signal.raise_signal(signal.SIGINT)
                done.append(step)

    with pytest.raises(KeyboardInterrupt):
        block()
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    return done


def test_an_interrupt_is_raised_after_the_block_and_a_second_one_at_once() -> None:
    assert _interrupted(times=1) == [0]
    assert _interrupted(times=2) == [0]


def test_an_error_in_the_block_is_raised_and_the_handler_restored() -> None:
    with pytest.raises(ValueError, match="a bug"), delay_interrupt():
        raise ValueError("a bug")
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_other_handlers_and_other_threads_are_not_affected() -> None:
    received: list[int] = []
    before = signal.signal(signal.SIGINT, lambda number, frame: received.append(number))
    try:
        with delay_interrupt():
            signal.raise_signal(signal.SIGINT)
        assert received == [signal.SIGINT]
    finally:
        signal.signal(signal.SIGINT, before)

    def use() -> None:
        with delay_interrupt():
            received.append(0)

    thread = threading.Thread(target=use)
    thread.start()
    thread.join()
    assert received == [signal.SIGINT, 0]
