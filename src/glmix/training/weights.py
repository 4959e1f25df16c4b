"""Models by name for a task, and weights to begin from: the authors', safetensors, or checkpoints of our own runs."""

import inspect
from pathlib import Path
from typing import Any

import timm
import torch
from torch import nn

from ..errors import InputError, nearest
from ..models import MODEL_NAMES, GLNet, read_checkpoint
from ..models.checkpoint_file import INFO, StateDict, mismatches, raise_on_mismatches, read_file, state_dict_in

__all__ = ["INFO", "build_model", "check_tensors", "load_weights", "open_run", "run_weights"]


def build_model(name: str, model_args: dict[str, Any], num_classes: int) -> nn.Module:
    """A model of timm, by name. The arguments of a GLNet are checked, as a misspelt one would go unnoticed in YAML."""
    if not timm.is_model(name):
        raise InputError(f"No model is named {name!r}.{nearest(name, timm.list_models())} `glmix models` lists ours.")
    if name in MODEL_NAMES:
        accepted = set(inspect.signature(GLNet).parameters) - {"num_classes", "device", "dtype"}
        for key in model_args:
            if key == "num_classes":
                raise InputError("model_args must not hold num_classes: set num_classes of the task, or leave it out.")
            if key not in accepted:
                raise InputError(
                    f"{name} has no argument {key!r}.{nearest(key, accepted)} It takes {', '.join(sorted(accepted))}."
                )
    model: nn.Module = timm.create_model(name, num_classes=num_classes, **model_args)
    return model


def open_run(path: Path) -> dict[str, Any]:
    """Read all that is in a `.ckpt` of `glmix fit`.

    Raises:
        InputError: the file is malformed, or has no state_dict.
        FileNotFoundError: there is no file.
    """
    content = read_file(path, mmap=True)
    if not isinstance(content.get("state_dict"), dict):
        raise InputError(f"{path} is no checkpoint of `glmix fit`: it has no state_dict.")
    return content


def run_weights(checkpoint: dict[str, Any], path: Path, use_ema: bool | None) -> StateDict:
    """Return the model's raw or averaged weights in what `open_run` read; None takes the better ones."""
    weights = state_dict_in(checkpoint["state_dict"], path)
    info = checkpoint.get(INFO)
    ema_is_better = isinstance(info, dict) and info.get("ema_is_better") is True
    prefix = "ema.module." if (ema_is_better if use_ema is None else use_ema) else "model."
    found = {name.removeprefix(prefix): tensor for name, tensor in weights.items() if name.startswith(prefix)}
    if not found:
        raise InputError(f"{path} holds no {'averaged' if prefix.startswith('ema') else 'raw'} weights.")
    return found


def _read(path: Path, use_ema: bool | None) -> StateDict:
    """Read the model's weights in any file that we know, under our names."""
    if path.suffix != ".ckpt":
        return read_checkpoint(path, use_ema)
    return run_weights(open_run(path), path, use_ema)


def load_weights(model: nn.Module, path: str | Path, use_ema: bool | None = None) -> list[str]:
    """Begin from a checkpoint. Classifiers for another number of classes stay as they are; their names are returned.

    Args:
        path: an authors' `.pth`, a safetensors file or state dict, or a `.ckpt` of a run of ours.
        use_ema: which weights of a file that has both; None takes the better ones.

    Raises:
        InputError: the file is malformed, or its weights do not fit the model.
    """
    path = Path(path)
    weights = _read(path, use_ema)
    cfg: dict[str, Any] = getattr(model, "pretrained_cfg", {}) or {}
    classifiers = cfg.get("classifier") or ()
    names = (classifiers,) if isinstance(classifiers, str) else tuple(classifiers)
    own = model.state_dict()
    replaced = tuple(name for name in names if _shape(weights, f"{name}.weight") != _shape(own, f"{name}.weight"))
    raise_on_mismatches(mismatches(weights, model, replaced), path, cfg.get("architecture", type(model).__name__))
    model.load_state_dict({k: v for k, v in weights.items() if not (replaced and k.startswith(replaced))}, strict=False)
    return list(replaced)


def _shape(weights: StateDict, name: str) -> torch.Size | None:
    return weights[name].shape if name in weights else None


def check_tensors(saved: StateDict, own: StateDict, path: str) -> None:
    """Compare all tensors of a `.ckpt`, averages included, with those of the task that is to load them.

    Raises:
        InputError: if a tensor is missing on one side or has another shape.
    """
    wrong = sorted(name for name in own.keys() | saved.keys() if _shape(saved, name) != _shape(own, name))
    if not wrong:
        return
    if all(name.startswith("ema.") for name in wrong):
        holds, wants = ("no ", "needs them") if wrong[0] in own else ("", "keeps none")
        raise InputError(f"{path} holds {holds}averaged weights, but the configuration {wants}: see model.ema_decay.")
    there, here = (
        list(shape) if shape is not None else "none" for shape in (_shape(saved, wrong[0]), _shape(own, wrong[0]))
    )
    raise InputError(
        f"{path} does not fit the configuration: {len(wrong)} tensors differ, such as {wrong[0]} ({there} in the file, "
        f"{here} here); give the model, model_args and number of classes that it was trained with."
    )
