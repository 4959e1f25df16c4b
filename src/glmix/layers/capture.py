"""What is reading the code: Python, or something that captures a graph of it. TorchScript reads neither question."""

import torch

__all__ = ["is_capturing", "is_exporting"]


def is_capturing() -> bool:
    """Whether `torch.compile` or `torch.export` is at work, for which sizes may be symbols."""
    return False if torch.jit.is_scripting() else torch.compiler.is_compiling()


def is_exporting() -> bool:
    """Whether `torch.export` is at work (up to torch 2.11 `torch.compile` says so too)."""
    return False if torch.jit.is_scripting() else torch.compiler.is_exporting()
