"""A model that is ready to be measured, in any runtime."""

from collections.abc import Callable
from dataclasses import dataclass

from torch import nn

__all__ = ["Pass", "Prepared"]

Pass = Callable[[], object]


@dataclass(frozen=True)
class Prepared:
    """The functions to measure.

    Args:
        passes: `passes(batch)` creates a batch of random images and returns a function that runs one pass over it.
        network: the PyTorch module; None for other runtimes.
        release: releases memory that a pass leaves allocated, such as gradients.
        keeps_memory: whether the runtime keeps the memory of passes, so that only the first pass allocates memory.
    """

    passes: Callable[[int], Pass]
    network: nn.Module | None = None
    release: Pass | None = None
    keeps_memory: bool = False
