"""Description of the machine and the library versions of a benchmark."""

import os
import platform
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from .._version import __version__

__all__ = ["describe_machine", "versions"]

LIBRARIES = ("torch", "timm", "onnxruntime", "openvino", "triton")


def describe_machine(device: str, threads: int) -> dict[str, Any]:
    """Return the processor, the numbers of cores and threads, the system and, unless `device` is "cpu", the GPU."""
    machine: dict[str, Any] = {
        "cpu": _cpu(),
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "threads": threads,
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
    }
    if device != "cpu":
        machine["gpu"] = torch.cuda.get_device_name(device)
        machine["cuda"] = torch.version.cuda
    return machine


def versions() -> dict[str, str]:
    """Return the versions of glmix and of the relevant libraries that are installed."""
    found = {"glmix": __version__}
    for library in LIBRARIES:
        try:
            found[library] = metadata.version(library)
        except metadata.PackageNotFoundError:
            continue
    found["torch"] = torch.__version__
    return found


def _cpu() -> str:
    """Return the model name of the processor."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()
