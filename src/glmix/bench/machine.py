"""Description of the machine and of the library versions for benchmarks."""

import os
import platform
import subprocess
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from .._version import __version__

__all__ = ["describe_machine", "versions"]

LIBRARIES = ("torch", "timm", "onnxruntime", "openvino", "triton")
MATRIX_INSTRUCTIONS = {
    "VNNI": {"avx512_vnni", "avx_vnni"},
    "BF16": {"avx512_bf16"},
    "AMX": {"amx_tile"},
}


def describe_machine(device: str, threads: int) -> dict[str, Any]:
    """Return the processor, the numbers of cores and threads, the system and, unless `device` is "cpu", the GPU."""
    machine: dict[str, Any] = {
        "cpu": _cpu(),
        "instructions": _instructions(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "threads": threads,
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
    }
    if device != "cpu":
        machine["gpu"] = torch.cuda.get_device_name(device)
        machine["driver"] = _driver()
        machine["cuda"] = torch.version.cuda
        machine["cudnn"] = str(torch.backends.cudnn.version())
    return machine


def versions(libraries: Sequence[str] = LIBRARIES) -> dict[str, str]:
    """Return the versions of glmix and of the given libraries that are installed."""
    found = {"glmix": __version__}
    for library in libraries:
        try:
            found[library] = metadata.version(library)
        except metadata.PackageNotFoundError:
            continue
    found["torch"] = torch.__version__
    return found


def _cpu() -> str:
    """Return the model name of the processor."""
    names = _cpuinfo("model name")
    return names or platform.processor() or platform.machine()


def _driver() -> str | None:
    """Return the version of the GPU driver; None if nvidia-smi does not report it."""
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        output = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return None
    return output.split()[0] if output.split() else None


def _instructions() -> str:
    """Return the vector instructions that torch uses, and the matrix instructions for low precision, on Linux."""
    flags = set(_cpuinfo("flags").split())
    found = [name for name, known in MATRIX_INSTRUCTIONS.items() if flags & known]
    return ", ".join([torch.backends.cpu.get_cpu_capability(), *found])


def _cpuinfo(field: str) -> str:
    """Return a field of the first processor in /proc/cpuinfo, or an empty string."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return ""
    return next((line.split(":", 1)[1].strip() for line in lines if line.split(":")[0].strip() == field), "")
