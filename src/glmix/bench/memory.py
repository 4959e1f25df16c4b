"""Measurement of the peak memory of a pass in the current process."""

from pathlib import Path

import torch

from .prepared import Pass

__all__ = ["added_memory"]

MIB = 1 << 20


def added_memory(run: Pass, device: str = "cpu") -> float | None:
    """Return the peak memory of a pass in MiB above the memory before it; None if the system does not report it."""
    if device != "cpu":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        run()
        return (torch.cuda.max_memory_allocated(device) - before) / MIB
    try:
        Path("/proc/self/clear_refs").write_text("5")  # Linux: reset the peak
        before = _resident("VmRSS")
    except OSError:
        return None
    run()
    return max(0, _resident("VmHWM") - before) / 1024


def _resident(key: str) -> int:
    """Return the current (VmRSS) or peak (VmHWM) resident memory of the process in KiB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(key))
