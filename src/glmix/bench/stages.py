"""How long each stage of a GLNet takes, by hooks."""

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
    """{stem, stage 0, ...: seconds} of one pass. Stages count their transition, and none the head."""
    if not isinstance(network, GLNet) or is_compiled(network):
        raise InputError("Stages are timed in a GLNet that is not compiled.")
    marks: dict[str, list[float]] = {}
    parts = {"stem": network.stem} | {f"stage {index}": stage for index, stage in enumerate(network.stages)}

    def mark(name: str) -> Callable[..., None]:
        def note(*args: Any) -> None:
            if device != "cpu":
                torch.cuda.synchronize(device)
            marks.setdefault(name, []).append(time.perf_counter())

        return note

    hooks = []
    for name, part in parts.items():
        hooks += [part.register_forward_pre_hook(mark(name)), part.register_forward_hook(mark(name))]
    try:
        run()
    finally:
        for hook in hooks:
            hook.remove()
    return {name: end - start for name, (start, end) in marks.items()}
