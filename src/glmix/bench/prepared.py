"""A model that is ready to run, whatever runs it."""

from collections.abc import Callable
from dataclasses import dataclass

from torch import nn

__all__ = ["Pass", "Prepared"]

Pass = Callable[[], object]


@dataclass(frozen=True)
class Prepared:
    """What is measured, as functions.

    Args:
        passes: `passes(batch)` is one pass over a batch of random images that are made beforehand.
        network: the module that computes, where there is one.
        release: give back what a pass leaves behind, such as gradients.
        keeps: whether the runtime keeps the memory of passes, so that only the first one adds any.
    """

    passes: Callable[[int], Pass]
    network: nn.Module | None = None
    release: Pass | None = None
    keeps: bool = False
