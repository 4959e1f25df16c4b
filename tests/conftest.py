"""Settings of all tests: one thread per test process, a fixed seed, and the folder of the parity files."""

import os
from pathlib import Path

if "PYTEST_XDIST_WORKER" in os.environ:  # test processes and their child processes share the cores
    os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
import torch

import glmix  # noqa: F401  (registers the models with timm)

PARITY = Path(__file__).parent / "parity"


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)
