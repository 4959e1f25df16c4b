"""Build models by name and load initial weights: official files, safetensors or checkpoints of `glmix fit`."""

import inspect
from pathlib import Path
from typing import Any

import timm
import torch
from lightning.pytorch.utilities import rank_zero_warn
from torch import nn

from ..errors import InputError, nearest
from ..models import MODEL_NAMES, GLNet, read_checkpoint
from ..models.checkpoint_file import INFO, StateDict, mismatches, raise_on_mismatches, read_file, state_dict_in
from .lora import merge_lora

__all__ = ["INFO", "build_model", "check_tensors", "load_weights", "read_run_checkpoint", "select_weights"]


def build_model(name: str, model_args: dict[str, Any], num_classes: int) -> nn.Module:
    """Create a model of timm by name.

    Args:
        name: name of a registered model.
        model_args: arguments of the model. Those of GLNet models are checked, so that a typo in YAML is an error.
        num_classes: number of classes.

    Raises:
        InputError: if there is no such model, or if it does not accept an argument.
    """
    if not timm.is_model(name):
        raise InputError(
            f"No model is named {name!r}.{nearest(name, timm.list_models())} `glmix models` lists the GLNet models."
        )
    if name in MODEL_NAMES:
        accepted = set(inspect.signature(GLNet).parameters) - {"num_classes", "device", "dtype"}
        for key in model_args:
            if key == "num_classes":
                raise InputError(
                    "model_args must not contain num_classes: set num_classes of the task, or leave it out."
                )
            if key not in accepted:
                raise InputError(
                    f"{name} has no argument {key!r}.{nearest(key, accepted)} It takes {', '.join(sorted(accepted))}."
                )
    model: nn.Module = timm.create_model(name, num_classes=num_classes, **model_args)
    return model


def read_run_checkpoint(path: Path) -> dict[str, Any]:
    """Return the content of a `.ckpt` of `glmix fit`.

    Raises:
        InputError: if the file is malformed, or has no state_dict.
        FileNotFoundError: if there is no such file.
    """
    content = read_file(path, mmap=True)
    if not isinstance(content.get("state_dict"), dict):
        raise InputError(f"{path} is not a checkpoint of `glmix fit`: it has no state_dict.")
    return content


def select_weights(
    checkpoint: dict[str, Any], path: Path, use_ema: bool | None, *, merge_adapters: bool = True
) -> StateDict:
    """Return the raw or the EMA weights of the model.

    Args:
        checkpoint: content of the checkpoint, from `read_run_checkpoint`.
        path: path of the file, for error messages.
        use_ema: use the EMA weights; None uses the weights with the better validation score.
        merge_adapters: merge LoRA adapters, so that the weights fit the plain network.

    Raises:
        InputError: if the checkpoint does not contain these weights.
    """
    weights = state_dict_in(checkpoint["state_dict"], path)
    info = checkpoint.get(INFO)
    ema_is_better = isinstance(info, dict) and info.get("ema_is_better") is True
    prefix = "ema.module." if (ema_is_better if use_ema is None else use_ema) else "model."
    found = {name.removeprefix(prefix): tensor for name, tensor in weights.items() if name.startswith(prefix)}
    if not found:
        raise InputError(f"{path} has no {'averaged (EMA)' if prefix.startswith('ema') else 'raw'} weights.")
    adapters = info.get("lora") if isinstance(info, dict) else None
    return merge_lora(found, adapters, path) if adapters is not None and merge_adapters else found


def _read(path: Path, use_ema: bool | None) -> StateDict:
    """Return the weights of a model from a file of any supported format, with the parameter names of glmix."""
    if path.suffix != ".ckpt":
        return read_checkpoint(path, use_ema)
    return select_weights(read_run_checkpoint(path), path, use_ema)


def load_weights(model: nn.Module, path: str | Path, use_ema: bool | None = None) -> list[str]:
    """Load initial weights into a model. A classifier layer for another number of classes keeps its own weights.

    If the model takes another number of channels than the 3 of the file, the first convolution is adapted as in timm:
    summed for 1 channel, otherwise repeated and scaled, with a warning.

    Args:
        model: model to load the weights into.
        path: an official `.pth` file, a safetensors file, a state dict, or a `.ckpt` of `glmix fit`.
        use_ema: use the EMA weights of a file that has both; None uses the better ones.

    Returns:
        Names of the classifier layers that were not loaded.

    Raises:
        InputError: if the file is malformed, or its weights do not fit the model.
    """
    path = Path(path)
    weights = _read(path, use_ema)
    cfg: dict[str, Any] = getattr(model, "pretrained_cfg", {}) or {}
    classifiers = cfg.get("classifier") or ()
    names = (classifiers,) if isinstance(classifiers, str) else tuple(classifiers)
    own = model.state_dict()
    weights = _adapt_first_conv(weights, own, f"{cfg.get('first_conv')}.weight", path)
    replaced = tuple(name for name in names if _shape(weights, f"{name}.weight") != _shape(own, f"{name}.weight"))
    raise_on_mismatches(mismatches(weights, model, replaced), path, cfg.get("architecture", type(model).__name__))
    model.load_state_dict({k: v for k, v in weights.items() if not (replaced and k.startswith(replaced))}, strict=False)
    return list(replaced)


def _adapt_first_conv(weights: StateDict, own: StateDict, name: str, path: Path) -> StateDict:
    """Return weights for RGB images with the first convolution for the number of channels of a model."""
    found, expected = _shape(weights, name), _shape(own, name)
    if found is None or expected is None or len(found) != 4 or len(expected) != 4:
        return weights
    channels = expected[1]
    if found[1] != 3 or channels == 3 or (found[0], *found[2:]) != (expected[0], *expected[2:]):
        return weights
    if channels != 1:
        rank_zero_warn(
            f"{path} is for 3 input channels and the model for {channels}: the weights of the first convolution "
            "are repeated over the channels, which reduces the accuracy if these do not resemble red, green and blue: "
            "train all layers, for more epochs."
        )
    return {**weights, name: timm.models.adapt_input_conv(channels, weights[name])}


def _shape(weights: StateDict, name: str) -> torch.Size | None:
    return weights[name].shape if name in weights else None


def check_tensors(saved: StateDict, own: StateDict, path: str) -> None:
    """Check that all tensors of a `.ckpt`, including the EMA weights, fit the task that loads them.

    Args:
        saved: state dict of the checkpoint.
        own: state dict of the task.
        path: path of the checkpoint, for error messages.

    Raises:
        InputError: if a tensor is missing on one side or has another shape.
    """
    different = sorted(name for name in own.keys() | saved.keys() if _shape(saved, name) != _shape(own, name))
    if not different:
        return
    first = different[0]
    if all(name.startswith("ema.") for name in different):
        has, expects = ("no ", "needs them") if first in own else ("", "does not use them")
        raise InputError(
            f"{path} has {has}averaged (EMA) weights, but the configuration {expects}: see model.ema_decay."
        )
    saved_shape, own_shape = (
        list(shape) if shape is not None else "none" for shape in (_shape(saved, first), _shape(own, first))
    )
    raise InputError(
        f"{path} does not fit the configuration: {len(different)} tensors differ, such as {first} (shape {saved_shape} "
        f"in the file, {own_shape} in the model); set the model, model_args and number of classes of the checkpoint."
    )
