"""Load any supported checkpoint: the network with its weights, its task and its metadata; save it as a folder."""

import importlib
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import safetensors.torch
from torch import nn

from .errors import InputError, MissingExtraError
from .files import atomic_write, write_atomically
from .models import GLNet, load_folder, load_official, save_model
from .models.checkpoint_file import INFO, StateDict, mismatches, raise_on_mismatches, read_file, state_dict_in
from .models.hub import CONFIG, WEIGHTS, read_config
from .models.restore import BUILD_ERRORS, first_line

__all__ = ["Loaded", "load", "load_trained", "save", "save_adapter"]

# Modules of the tasks that a checkpoint may name. No other module named in a file is imported.
TASK_MODULES = {
    "Classification": "glmix.tasks.classification.task",
    "TokenLabelling": "glmix.tasks.token_labelling.task",
    "Segmentation": "glmix.tasks.segmentation.task",
    "Detection": "glmix.tasks.detection.task",
}


# Metadata of a checkpoint that a folder keeps, besides those in DATA_ATTRIBUTES.
_KEPT = ("task", "build_args", "model", "model_args", "num_classes", "resize", "category_ids")

_CARD = """---
library_name: glmix
license: mit
---
# {architecture}

A {task} network with {classes} classes and {parameters:.1f}M parameters, trained with `glmix fit`.

```python
import glmix

loaded = glmix.load("{folder}")
network, class_names = loaded.network, loaded.info["class_names"]
```

To run it on images, use `glmix {command} photo.jpg --checkpoint {folder} -o results`. config.json describes the
network, its classes and its preprocessing. Other libraries cannot load this folder, because backbone and decoder are
modules of glmix.
"""
_COMMANDS = {"Segmentation": "segment", "Detection": "detect"}


@dataclass(frozen=True, eq=False)
class Loaded:
    """Network loaded from a checkpoint, with its metadata.

    Args:
        network: network in evaluation mode. Its `pretrained_cfg` has the class names and the preprocessing parameters;
            the `pretrained_cfg` of a GLNet backbone in it has the preprocessing parameters.
        task: class name of the task. None for official files and timm folders, which contain classifiers.
        info: metadata of a `.ckpt` of `glmix fit` or a folder of `save`, see `glmix.training.read_info`; empty for
            other files.
    """

    network: nn.Module
    task: str | None = None
    info: dict[str, Any] = field(default_factory=dict)


def load(path: str | Path, variant: str | None = None, *, use_ema: bool | None = None) -> Loaded:
    """Load a network from a checkpoint without running code from the file, reading other files or using the internet.

    Args:
        path: a `.ckpt` of `glmix fit`, an official checkpoint, a state dict, a safetensors file, or a folder of `save`
            or of timm.
        variant: name of the model, for weights that do not identify it.
        use_ema: use the EMA weights (True) or the raw weights (False) of a file that has both. None uses the weights
            with the better validation score.

    Raises:
        InputError: if the file is malformed, or its weights do not fit the network that it describes.
        FileNotFoundError: if there is no such file.
    """
    path = Path(path)
    if path.is_dir():
        if INFO not in read_config(path):
            return Loaded(load_folder(path))
        from .training.checkpoint_info import checked_info

        info = checked_info(read_config(path), path / CONFIG)
        weights_path = path / WEIGHTS
        weights = state_dict_in(read_file(weights_path), weights_path)
        return _loaded(info, weights, path / CONFIG, weights_path)
    if path.suffix != ".ckpt":
        return Loaded(load_official(path, variant, use_ema=use_ema).eval())
    from .training.checkpoint_info import checked_info
    from .training.weights import read_run_checkpoint, select_weights

    checkpoint = read_run_checkpoint(path)
    info = checked_info(checkpoint, path)
    if variant is not None and info["model"].split(".")[0] != variant.split(".")[0]:
        raise InputError(f"{path} contains a {info['model']}, not a {variant}.")
    suffix = "_ema" if (info["ema_is_better"] if use_ema is None else use_ema) else ""
    return _loaded(info, select_weights(checkpoint, path, use_ema), path, path, suffix)


def load_trained(path: str | Path, use_ema: bool | None = None) -> nn.Module:
    """Return the network of a checkpoint in evaluation mode; see `load`."""
    return load(path, use_ema=use_ema).network


def save(loaded: Loaded, folder: str | Path) -> str:
    """Save a loaded network to a folder that `load` reads: config.json, model.safetensors and a model card.

    The folder of a GLNet classifier is that of `save_model`, which timm and transformers load too.

    Args:
        loaded: the result of `load`.
        folder: the output folder; it is created if needed.

    Returns:
        The model card, which is also written to README.md.

    Raises:
        InputError: the network is neither a GLNet classifier nor a dense prediction network of `glmix fit`.
    """
    from .training.checkpoint_info import DATA_ATTRIBUTES

    network, folder = loaded.network, Path(folder)
    if isinstance(network, GLNet):
        return save_model(network, folder)
    if loaded.task not in _COMMANDS:
        raise InputError(
            f"A {type(network).__name__} for {loaded.task or 'classification'} cannot be saved as a folder; "
            f"accepted: GLNet classifiers and networks for {' and '.join(_COMMANDS).lower()}."
        )
    config: dict[str, Any] = getattr(network, "pretrained_cfg", {})
    card = _CARD.format(
        architecture=config.get("architecture", loaded.info["model"]),
        task=loaded.task.lower(),
        classes=loaded.info["num_classes"],
        parameters=sum(p.numel() for p in network.parameters()) / 1e6,
        folder=folder,
        command=_COMMANDS[loaded.task],
    )
    # safetensors needs contiguous tensors, and those of a channels-last model are not
    weights = {name: tensor.contiguous() for name, tensor in network.state_dict().items()}
    with atomic_write(folder / WEIGHTS) as part:
        safetensors.torch.save_file(weights, part)
    write_atomically(folder / "README.md", card)
    info = {key: loaded.info[key] for key in (*_KEPT, *DATA_ATTRIBUTES) if key in loaded.info}
    write_atomically(folder / CONFIG, json.dumps({INFO: info}, indent=2) + "\n")
    return card


def _loaded(info: dict[str, Any], weights: StateDict, source: Path, weights_path: Path, suffix: str = "") -> Loaded:
    """Build the network that metadata describe, and load its weights.

    Args:
        info: the checked metadata.
        weights: the weights.
        source: the file with the metadata, for messages.
        weights_path: the file with the weights, for messages.
        suffix: suffix of the network whose decision threshold is used: "" for raw weights, "_ema" for EMA weights.
    """
    network = _build(info, source)
    raise_on_mismatches(mismatches(weights, network), weights_path, info["model"])
    network.load_state_dict(weights)
    if isinstance(network, GLNet) and suffix in info.get("thresholds", {}):
        network.threshold = info["thresholds"][suffix]
    _set_pretrained_cfg(network, info)
    return Loaded(network.eval(), info["task"], info)


def save_adapter(path: str | Path, folder: str | Path, use_ema: bool | None = None) -> None:
    """Write the LoRA adapters and the classifier of a checkpoint as a folder for `peft.PeftModel.from_pretrained`.

    Args:
        path: a `.ckpt` of a classifier that `glmix fit` has trained with LoRA.
        folder: output folder, for adapter_config.json and adapter_model.safetensors.
        use_ema: as for `load`.

    Raises:
        InputError: if the file is malformed, or has no adapters of a classifier.
        FileNotFoundError: if there is no such file.
        MissingExtraError: if peft is not installed.
    """
    path = Path(path)
    if path.suffix != ".ckpt":
        raise InputError(f"{path} is not a .ckpt of `glmix fit`, which is needed for LoRA adapters.")
    from .training.checkpoint_info import checked_info
    from .training.freezing import classifiers_of
    from .training.lora import write_adapter
    from .training.weights import read_run_checkpoint, select_weights

    checkpoint = read_run_checkpoint(path)
    info = checked_info(checkpoint, path)
    if info.get("lora") is None or info["task"] not in ("Classification", "TokenLabelling"):
        raise InputError(f"{path} contains no classifier with LoRA adapters (model.lora), which --adapter needs.")
    network = _build(info, path)
    classifiers = [name for name, module in network.named_modules() if module in classifiers_of(network)]
    weights = select_weights(checkpoint, path, use_ema, merge_adapters=False)
    write_adapter(weights, info["lora"], classifiers, info["model"], Path(folder), path)


def _build(info: dict[str, Any], path: Path) -> nn.Module:
    """Build the network that the metadata of a checkpoint describes."""
    task_class = getattr(importlib.import_module(TASK_MODULES[info["task"]]), info["task"])
    try:
        task = task_class(model=info["model"], model_args=info["model_args"], **info["build_args"])
        network: nn.Module = task.build(info["num_classes"])
    except MissingExtraError:
        raise
    except BUILD_ERRORS as error:
        raise InputError(f"{path} describes a {info['task']} that cannot be built: {first_line(error)}") from error
    return network


def _set_pretrained_cfg(network: nn.Module, info: dict[str, Any]) -> None:
    """Write class names and preprocessing into `pretrained_cfg`; only preprocessing for the backbone in a network."""
    from .training.checkpoint_info import DATA_ATTRIBUTES

    cfg_update = {
        "label_names" if key == "class_names" else key: info[key] for key in DATA_ATTRIBUTES if info[key] is not None
    }
    dense = {key: tuple(info[key]) for key in ("resize", "category_ids") if info.get(key) is not None}
    detector = info["build_args"].get("detector", {})
    cfg_update |= {key: detector[key] for key in ("mean", "std") if key in detector}
    cfg_update |= {key: tuple(cfg_update[key]) for key in ("mean", "std", "input_size") if key in cfg_update}
    if isinstance(cfg := getattr(network, "pretrained_cfg", None), dict):
        cfg.update(cfg_update | dense, num_classes=info["num_classes"])
    backbone = next((module for module in network.modules() if isinstance(module, GLNet)), None)
    if backbone is not None and backbone is not network:
        backbone.pretrained_cfg.update({key: value for key, value in cfg_update.items() if key != "label_names"})
