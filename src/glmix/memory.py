"""Memory of the process: allocator settings and detection of out-of-memory errors."""

import ctypes
import sys

import torch

__all__ = ["is_out_of_memory", "keep_freed_memory", "release_freed_memory", "release_memory_at_once"]

# constants of glibc from malloc.h
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3


def _glibc() -> ctypes.CDLL | None:
    """Return the C library if it is glibc, else None."""
    library = ctypes.CDLL(None) if sys.platform.startswith("linux") else None
    return library if hasattr(library, "gnu_get_libc_version") else None


def keep_freed_memory() -> bool:
    """Configure glibc to keep freed memory in the process for later tensors; return whether this succeeded.

    By default, glibc returns every large block to the system immediately, and the system fills every page with zeros
    when it is allocated again. This takes about a sixth of a forward pass on a CPU. The kept memory is at most the peak
    usage. Other allocators (jemalloc, tcmalloc, musl, macOS, Windows) are not changed.
    """
    library = _glibc()
    if library is None:
        return False
    # older versions of glibc accept at most 32 MiB
    kept = any(library.mallopt(_M_MMAP_THRESHOLD, size) for size in (1 << 30, 1 << 25))
    return bool(kept and library.mallopt(_M_TRIM_THRESHOLD, (1 << 31) - 1))


def release_freed_memory() -> None:
    """Return freed memory to the system if the allocator is glibc's."""
    library = _glibc()
    if library is not None:
        library.malloc_trim(0)


def release_memory_at_once() -> None:
    """Configure glibc to return freed memory to the system at once, so that resident memory is memory in use.

    This makes computations slower, so measure times first.
    """
    library = _glibc()
    if library is not None:
        library.mallopt(_M_MMAP_THRESHOLD, 1 << 16)
        library.mallopt(_M_TRIM_THRESHOLD, 1 << 16)
        library.malloc_trim(0)


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an exception of Python, NumPy, Pillow or torch is an out-of-memory error, on any device."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    # the CPU allocator of torch and C++ std::bad_alloc raise a plain RuntimeError
    return isinstance(error, RuntimeError) and any(name in str(error) for name in ("DefaultCPUAllocator", "bad_alloc"))
