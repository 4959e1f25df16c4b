"""Compilation of small functions for training on a CPU."""

import logging
import shutil
import warnings
from collections.abc import Callable
from typing import TypeVar

import torch
from torch import Tensor

from ..compat import compiler_errors

__all__ = ["HAS_AVX512", "compile_kernel", "has_cpp_compiler"]

ResultT = TypeVar("ResultT")

HAS_AVX512 = torch.backends.cpu.get_cpu_capability() == "AVX512"  # a constant, as torch.compile cannot trace the call


def has_cpp_compiler() -> bool:
    """Return whether a C++ compiler for torch.compile is installed."""
    return any(shutil.which(name) for name in ("g++", "clang++", "c++", "cl"))


def compile_kernel(function: Callable[..., ResultT], *example: Tensor | int) -> Callable[..., ResultT] | None:
    """Compile a function of tensors for all sizes; return None if it is not faster or cannot be compiled here.

    A kernel is compiled on processors with AVX-512 if there is a C++ compiler. The example has a fixed size, because
    the result must not depend on the first input: a resumed training repeats the bits of an uninterrupted one.
    """
    if not HAS_AVX512 or not has_cpp_compiler():
        return None
    _import_compiler()
    compiled: Callable[..., ResultT] = torch.compile(function, dynamic=True)
    try:
        with torch.no_grad(), torch.autocast("cpu", enabled=False):
            compiled(*example)
    except compiler_errors() as error:
        reason = str(error).strip().splitlines()[0]
        warnings.warn(f"Training uses PyTorch's slower layers: no kernel could be compiled ({reason}).", stacklevel=2)
        return None
    return compiled


def _import_compiler() -> None:
    """Import torch's support for C++ compilers without its message about a missing GPU."""
    logger = logging.getLogger("torch.utils.cpp_extension")
    disabled, logger.disabled = logger.disabled, True
    try:
        import torch.utils.cpp_extension  # noqa: F401
    finally:
        logger.disabled = disabled
