"""Load any checkpoint: the network with its weights, its task, and what the file says about both."""

import importlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import nn

from .errors import InputError, MissingExtraError
from .models import GLNet, load_folder, load_official
from .models.checkpoint_file import mismatches, raise_on_mismatches
from .models.restore import BUILD_ERRORS, first_line

__all__ = ["Loaded", "load", "load_trained"]

# The modules of the tasks that a checkpoint may name. Nothing else that a file names is ever imported.
TASK_MODULES = {
    "Classification": "glmix.tasks.classification.task",
    "TokenLabelling": "glmix.tasks.token_labelling.task",
    "Segmentation": "glmix.tasks.segmentation.task",
    "Detection": "glmix.tasks.detection.task",
}


@dataclass(frozen=True, eq=False)
class Loaded:
    """A network and what its file says about it.

    Args:
        network: the network, in evaluation mode. Its `pretrained_cfg`, and that of a GLNet in it, holds the names of
            the classes and how images are prepared.
        task: the class of the task that it was trained for; None if the file does not say it, as with the authors'
            files and folders of timm, which hold classifiers.
        info: what a `.ckpt` of `glmix fit` says, see `glmix.training.read_info`; empty for other files.
    """

    network: nn.Module
    task: str | None = None
    info: dict[str, Any] = field(default_factory=dict)


def load(path: str | Path, variant: str | None = None, *, use_ema: bool | None = None) -> Loaded:
    """Load a network from any checkpoint. No code in the file is run, no other file and no network is used.

    Args:
        path: a `.ckpt` of `glmix fit`, one of the authors' files, a state dict, safetensors, or a folder for timm.
        variant: the model's name, for weights that do not identify it.
        use_ema: take the raw or the averaged weights of a file that has both; None takes the better ones.

    Raises:
        InputError: the file is malformed, or does not describe a network that fits its weights.
        FileNotFoundError: there is no such file.
    """
    path = Path(path)
    if path.is_dir():
        return Loaded(load_folder(path))
    if path.suffix != ".ckpt":
        return Loaded(load_official(path, variant, use_ema=use_ema).eval())
    from .training.checkpoint_info import checked_info
    from .training.weights import open_run, run_weights

    checkpoint = open_run(path)
    info = checked_info(checkpoint, path)
    if variant is not None and info["model"].split(".")[0] != variant.split(".")[0]:
        raise InputError(f"{path} holds a {info['model']}, not a {variant}.")
    network = _build(info, path)
    weights = run_weights(checkpoint, path, use_ema)
    raise_on_mismatches(mismatches(weights, network), path, info["model"])
    network.load_state_dict(weights)
    _describe(network, info)
    return Loaded(network.eval(), info["task"], info)


def load_trained(path: str | Path, use_ema: bool | None = None) -> nn.Module:
    """Load the network of a `.ckpt` of `glmix fit`, in evaluation mode; see `load`."""
    return load(path, use_ema=use_ema).network


def _build(info: dict[str, Any], path: Path) -> nn.Module:
    task_class = getattr(importlib.import_module(TASK_MODULES[info["task"]]), info["task"])
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
    from .training.checkpoint_info import DATA

    told = {"label_names" if key == "class_names" else key: info[key] for key in DATA if info[key] is not None}
    detector = info["build_args"].get("detector", {})
    told |= {key: detector[key] for key in ("mean", "std") if key in detector}
    told |= {key: tuple(told[key]) for key in ("mean", "std", "input_size") if key in told}
    if isinstance(cfg := getattr(network, "pretrained_cfg", None), dict):
        cfg.update(told, num_classes=info["num_classes"])
    backbone = next((module for module in network.modules() if isinstance(module, GLNet)), None)
    if backbone is not None and backbone is not network:
        backbone.pretrained_cfg.update({key: value for key, value in told.items() if key != "label_names"})
