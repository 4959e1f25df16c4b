"""Detection of graph capture: TorchScript, tracing, torch.compile and torch.export."""

import torch

__all__ = ["is_capturing", "is_exporting"]


def is_capturing() -> bool:
    """Return whether the code runs in TorchScript or under `torch.jit.trace`, `torch.compile` or `torch.export`."""
    if torch.jit.is_scripting():
        return True
    return torch.jit.is_tracing() or torch.compiler.is_compiling()


def is_exporting() -> bool:
    """Return whether `torch.export` captures the graph (up to torch 2.11 also true under `torch.compile`)."""
    return False if torch.jit.is_scripting() else torch.compiler.is_exporting()
