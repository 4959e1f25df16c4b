"""Measurement of the time of each stage of a GLNet with forward hooks."""

import time
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from ..compat import is_compiled
from ..errors import InputError
from ..models import GLNet
from .prepared import Pass

__all__ = ["stage_seconds"]


def stage_seconds(network: nn.Module | None, run: Pass, device: str = "cpu") -> dict[str, float]:
    """Measure the time of the stem and of each stage in one pass.

    Args:
        network: a GLNet that is not compiled.
        run: a pass of the network.
        device: cpu or cuda.

    Returns:
        {"stem": seconds, "stage 0": seconds, ...}. A stage includes its transition. The head is not measured.

    Raises:
        InputError: the network is not a GLNet, or is compiled.
    """
    if not isinstance(network, GLNet) or is_compiled(network):
        raise InputError("The time of stages can be measured only for a GLNet that is not compiled.")
    marks: dict[str, list[float]] = {}
    parts = {"stem": network.stem} | {f"stage {index}": stage for index, stage in enumerate(network.stages)}

    def mark(name: str) -> Callable[..., None]:
        def hook(*args: Any) -> None:
            if device != "cpu":
                torch.cuda.synchronize(device)
            marks.setdefault(name, []).append(time.perf_counter())

        return hook

    handles = []
    for name, part in parts.items():
        handles += [part.register_forward_pre_hook(mark(name)), part.register_forward_hook(mark(name))]
    try:
        run()
    finally:
        for handle in handles:
            handle.remove()
    return {name: end - start for name, (start, end) in marks.items()}
