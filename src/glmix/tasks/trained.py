"""What is in a checkpoint that `glmix fit` wrote, whatever its task: the network, and what it was trained on."""

import importlib
from pathlib import Path
from typing import Any

from torch import nn

from ..errors import InputError, MissingExtraError
from ..models import GLNet
from ..models.checkpoint_file import misfits, refuse_misfits
from ..models.restore import BUILD_ERRORS, first_line
from .checkpoint_info import DATA, TASKS, checked_info
from .weights import open_run, run_weights

__all__ = ["DATA", "TASKS", "load_trained", "read_info"]


def read_info(path: str | Path) -> dict[str, Any]:
    """Return what a checkpoint of `glmix fit` says of itself: model, model_args, num_classes, task, build_args, and all
    of `DATA`, None where the data did not tell it.

    Raises:
        InputError: the file is malformed, or holds entries that `glmix fit` does not write.
    """
    path = Path(path)
    return checked_info(open_run(path), path)


def load_trained(path: str | Path, use_ema: bool | None = None) -> nn.Module:
    """Load the network of a `.ckpt` of `glmix fit`, with its weights, in evaluation mode.

    What the file says of the network is checked first: neither the network nor any other file is used.

    Args:
        path: the checkpoint.
        use_ema: take the raw or the averaged weights; None takes those that were better in the last validation.

    Returns:
        The network. Its `pretrained_cfg`, and that of a GLNet in it, holds the names of the classes and how images are
        prepared.

    Raises:
        InputError: the file is malformed, or does not describe a network that fits its weights.
    """
    path = Path(path)
    checkpoint = open_run(path)
    info = checked_info(checkpoint, path)
    network = _build(info, path)
    weights = run_weights(checkpoint, path, use_ema)
    refuse_misfits(misfits(weights, network), path, info["model"])
    network.load_state_dict(weights)
    _describe(network, info)
    return network.eval()


def _build(info: dict[str, Any], path: Path) -> nn.Module:
    task_class = getattr(importlib.import_module(f".{TASKS[info['task']]}", __package__), info["task"])
    try:
        task = task_class(model=info["model"], model_args=info["model_args"], **info["build_args"])
        network: nn.Module = task.build(info["num_classes"])
    except MissingExtraError:
        raise
    except BUILD_ERRORS as error:
        raise InputError(f"{path} describes a {info['task']} that cannot be built: {first_line(error)}") from error
    return network


def _describe(network: nn.Module, info: dict[str, Any]) -> None:
    """Note in timm's configuration what the network was trained for, and in that of a backbone how images look."""
    told = {"label_names" if key == "class_names" else key: info[key] for key in DATA if info[key] is not None}
    detector = info["build_args"].get("detector", {})
    told |= {key: detector[key] for key in ("mean", "std") if key in detector}
    told |= {key: tuple(told[key]) for key in ("mean", "std", "input_size") if key in told}
    if isinstance(cfg := getattr(network, "pretrained_cfg", None), dict):
        cfg.update(told, num_classes=info["num_classes"])
    backbone = next((module for module in network.modules() if isinstance(module, GLNet)), None)
    if backbone is not None and backbone is not network:
        backbone.pretrained_cfg.update({key: value for key, value in told.items() if key != "label_names"})
