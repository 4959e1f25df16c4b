"""Models by name for a task, and weights to begin from: the authors', safetensors, or checkpoints of our own runs."""

import inspect
import pickle
from pathlib import Path
from typing import Any

import timm
import torch
from torch import Tensor, nn

from ..errors import InputError, nearest
from ..models import MODEL_NAMES, GLNet, read_checkpoint
from ..models.official import misfits

__all__ = ["INFO", "build_model", "check_tensors", "load_weights", "nearest", "open_run"]

StateDict = dict[str, Tensor]
# what torch.load raises for a file that is damaged, or is no checkpoint
UNPICKLING_ERRORS = (RuntimeError, EOFError, pickle.UnpicklingError, LookupError, ValueError, TypeError, AttributeError)
INFO = "glmix"  # the entry of a checkpoint that says what it holds


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
    """All that is in a `.ckpt` of `glmix fit`."""
    if not path.is_file():
        raise FileNotFoundError(f"No checkpoint at {path}.")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except UNPICKLING_ERRORS as error:
        raise InputError(f"{path} is no checkpoint of `glmix fit`, or is not whole.") from error
    if not isinstance(content, dict) or not isinstance(content.get("state_dict"), dict):
        raise InputError(f"{path} is no checkpoint of `glmix fit`: it has no state_dict.")
    return content


def _read(path: Path, use_ema: bool | None) -> StateDict:
    """The model's weights in any file that we know, under our names."""
    if path.suffix != ".ckpt":
        return read_checkpoint(path, use_ema)
    checkpoint = open_run(path)
    weights: StateDict = checkpoint["state_dict"]
    ema_is_better = checkpoint.get(INFO, {}).get("ema_is_better", False)
    prefix = "ema.module." if (ema_is_better if use_ema is None else use_ema) else "model."
    found = {name.removeprefix(prefix): tensor for name, tensor in weights.items() if name.startswith(prefix)}
    if not found:
        raise InputError(f"{path} holds no {'averaged' if prefix.startswith('ema') else 'raw'} weights.")
    return found


def load_weights(model: nn.Module, path: str | Path, use_ema: bool | None = None) -> list[str]:
    """Begin from a checkpoint. Classifiers for another number of classes stay as they are; their names are returned.

    Args:
        path: an authors' `.pth`, a safetensors file or state dict, or a `.ckpt` of a run of ours.
        use_ema: which weights of a file that has both; None takes the better ones.
    """
    path = Path(path)
    weights = _read(path, use_ema)
    cfg: dict[str, Any] = getattr(model, "pretrained_cfg", {}) or {}
    classifiers = cfg.get("classifier") or ()
    names = (classifiers,) if isinstance(classifiers, str) else tuple(classifiers)
    own = model.state_dict()
    replaced = tuple(name for name in names if _shape(weights, f"{name}.weight") != _shape(own, f"{name}.weight"))
    lines = misfits(weights, model, replaced)
    if lines:
        shown = "\n  ".join(lines[:20]) + (f"\n  ... and {len(lines) - 20} more" if len(lines) > 20 else "")
        raise InputError(f"{path} does not fit {cfg.get('architecture', type(model).__name__)}:\n  {shown}")
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
