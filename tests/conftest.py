"""Settings of all tests: one thread per test process, fixed seeds and repeatable examples of Hypothesis."""

import os

if "PYTEST_XDIST_WORKER" in os.environ:  # test processes and their child processes share the cores
    os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
import torch
from hypothesis import settings

import glmix  # noqa: F401  (registers the models with timm)

# the same examples in every run, and no limit of time, which depends on the machine
settings.register_profile("tests", deadline=None, derandomize=True, max_examples=40)
settings.load_profile("tests")


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)
