"""How much memory a pass adds at its peak, in the process that runs it."""

import contextlib
import ctypes
from pathlib import Path

import torch

from .prepared import Pass

__all__ = ["added_memory", "release_freed_memory", "settle_memory"]

MIB = 1 << 20
# glibc's numbers and ours, in bytes
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
SMALL = 1 << 16


def release_freed_memory() -> None:
    """Have what was freed and kept go back to the system, where the allocator is glibc's."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)


def settle_memory() -> None:
    """Have memory come from the system and go back to it at once, so that what is resident is what is in use.

    It makes passes slower, so times are taken before.
    """
    with contextlib.suppress(OSError, AttributeError):
        libc = ctypes.CDLL(None)
        libc.mallopt(M_MMAP_THRESHOLD, SMALL)
        libc.mallopt(M_TRIM_THRESHOLD, SMALL)
    release_freed_memory()


def added_memory(run: Pass, device: str = "cpu") -> float | None:
    """MiB that a pass adds at its peak to what there was before; None where the system does not tell."""
    if device != "cpu":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        run()
        return (torch.cuda.max_memory_allocated(device) - before) / MIB
    try:
        Path("/proc/self/clear_refs").write_text("5")  # Linux: forget the peak so far
        before = _resident("VmRSS")
    except OSError:
        return None
    run()
    return max(0, _resident("VmHWM") - before) / 1024


def _resident(key: str) -> int:
    """KiB of memory that the process holds (VmRSS) or held at most (VmHWM)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(key))
