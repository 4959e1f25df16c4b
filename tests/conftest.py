"""Shared by all tests: one thread per process, a seed, and where the parity vectors lie."""

import os
from pathlib import Path

if "PYTEST_XDIST_WORKER" in os.environ:  # the test processes share the cores, and so do the processes that they start
    os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
import torch

import glmix  # noqa: F401  (registers the models with timm)

PARITY = Path(__file__).parent / "parity"


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)
