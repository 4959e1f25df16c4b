"""The memory of this process: keeping what was freed, and recognising that there is too little."""

import ctypes
import sys

import torch

__all__ = ["is_out_of_memory", "keep_freed_memory"]

# glibc's names and numbers, from malloc.h
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3


def keep_freed_memory() -> bool:
    """Let this process keep freed memory for its next tensors; returns whether its allocator could be told.

    By itself, glibc gives every large block back to the system at once, and the system hands it out again page by
    page, each filled with zeros first: about a sixth of a forward pass on a CPU. What is kept is at most what was in
    use at the peak. Other allocators (jemalloc, tcmalloc, musl, macOS, Windows) are left alone.
    """
    if not sys.platform.startswith("linux"):
        return False
    library = ctypes.CDLL(None)
    if not hasattr(library, "gnu_get_libc_version"):
        return False
    # older versions of glibc refuse more than 32 MiB
    kept = any(library.mallopt(_M_MMAP_THRESHOLD, size) for size in (1 << 30, 1 << 25))
    return bool(kept and library.mallopt(_M_TRIM_THRESHOLD, (1 << 31) - 1))


def is_out_of_memory(error: BaseException) -> bool:
    """Tell whether an exception of Python, NumPy, Pillow or torch means that memory ran out, on any device."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    # torch's allocator for CPUs and C++'s own have no exception class in Python
    return isinstance(error, RuntimeError) and any(name in str(error) for name in ("DefaultCPUAllocator", "bad_alloc"))
