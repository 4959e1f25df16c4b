"""Detection of graph capture (TorchScript, tracing, torch.compile, torch.export) and of deterministic mode."""

import torch
from torch import Tensor

__all__ = ["is_capturing", "is_exporting", "must_be_deterministic"]


def is_capturing() -> bool:
    """Return whether the code runs in TorchScript or under `torch.jit.trace`, `torch.compile` or `torch.export`."""
    if torch.jit.is_scripting():
        return True
    return torch.jit.is_tracing() or torch.compiler.is_compiling()


def is_exporting() -> bool:
    """Return whether `torch.export` captures the graph (up to torch 2.11 also true under `torch.compile`)."""
    return False if torch.jit.is_scripting() else torch.compiler.is_exporting()


def must_be_deterministic(x: Tensor) -> bool:
    """Return whether operations on x must be deterministic, and some of the kernels of its device are not."""
    if torch.jit.is_scripting():
        return False
    return x.is_cuda and torch.are_deterministic_algorithms_enabled()
