"""What is in a checkpoint that `glmix fit` wrote, whatever its task: the network, and what it was trained on."""

import importlib
from pathlib import Path
from typing import Any

from torch import nn

from ..errors import InputError
from .weights import INFO, load_weights, open_run

__all__ = ["DATA", "TASKS", "load_trained", "read_info"]

# Where the task is of which a checkpoint gives the name. Nothing else that a file may name is ever imported.
TASKS = {
    "Classification": "classification",
    "TokenLabelling": "token_label",
    "Segmentation": "segmentation",
    "Detection": "detection",
}


# What a checkpoint keeps of what its data told.
DATA = ("class_names", "mean", "std", "input_size", "crop_pct")


def read_info(path: str | Path) -> dict[str, Any]:
    """What the checkpoint says of itself: model, model_args, num_classes, task, build_args, and all of `DATA`, None
    where the data did not tell it."""
    checkpoint = open_run(Path(path))
    if INFO not in checkpoint:
        raise InputError(f"{path} does not say which model it holds: it is no checkpoint of `glmix fit`.")
    info: dict[str, Any] = {**dict.fromkeys(DATA), **checkpoint[INFO]}
    if info.get("task") not in TASKS:
        raise InputError(f"{path} holds the task {info.get('task')!r}; known are {', '.join(TASKS)}.")
    return info


def load_trained(path: str | Path, use_ema: bool | None = None) -> nn.Module:
    """The network of a `.ckpt`, with its weights, in evaluation mode; by default the raw or averaged ones that were
    better when it was last validated. A classifier knows its classes' names and what its images must look like."""
    info = read_info(path)
    task_class = getattr(importlib.import_module(f".{TASKS[info['task']]}", __package__), info["task"])
    task = task_class(model=info["model"], model_args=info["model_args"], **info["build_args"])
    network: nn.Module = task.build(info["num_classes"])
    load_weights(network, path, use_ema)
    cfg = getattr(network, "pretrained_cfg", None)
    if cfg is not None:
        told = {"label_names" if key == "class_names" else key: info[key] for key in DATA if info[key] is not None}
        cfg.update(told, multi_label=info["build_args"].get("multi_label", False))
    return network.eval()
