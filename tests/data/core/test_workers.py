"""Initialisation of data loading workers."""

import multiprocessing
import sys

import pytest

from glmix.data.core.workers import init_worker


def _report(error: Exception) -> None:
    init_worker(0)
    sys.excepthook(type(error), error, None)


@pytest.mark.parametrize(
    ("error", "printed"), [(ConnectionResetError("main process"), False), (ValueError("a bug"), True)]
)
def test_a_worker_prints_all_errors_but_the_end_of_the_main_process(
    error: Exception, printed: bool, capfd: pytest.CaptureFixture[str]
) -> None:
    worker = multiprocessing.get_context("fork").Process(target=_report, args=(error,))
    worker.start()
    worker.join(30)
    assert worker.exitcode == 0
    assert (str(error) in capfd.readouterr().err) is printed
