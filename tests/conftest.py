"""Shared by all tests: quiet threads, a seed, and where the parity vectors lie."""

from pathlib import Path

import pytest
import torch

import glmix  # noqa: F401  (registers the models with timm)

PARITY = Path(__file__).parent / "parity"


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)
