"""Fixtures that run commands."""

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from glmix_cli import main

Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def glmix(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Run `glmix ...` in an empty folder, in this process, because a new one takes seconds to import torch."""

    def run(*arguments: object) -> subprocess.CompletedProcess[str]:
        monkeypatch.chdir(tmp_path)
        words = [str(argument) for argument in arguments]
        try:
            code = main(words)
        except SystemExit as stopped:  # argparse ends the process
            code = stopped.code if isinstance(stopped.code, int) else 0
        return subprocess.CompletedProcess(words, code, *capsys.readouterr())

    return run
