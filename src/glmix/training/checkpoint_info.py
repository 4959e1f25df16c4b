"""Metadata of `glmix fit` checkpoints, validated because a checkpoint may come from an untrusted source."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..errors import InputError
from ..models.checkpoint_file import INFO
from ..models.restore import checked_arguments, checked_model_args
from .weights import read_run_checkpoint

__all__ = ["BUILD_ARGS", "DATA_ATTRIBUTES", "checked_info", "read_info"]

# Arguments that a checkpoint may set for each task, and their types: those that `Task.build_args` writes.
BUILD_ARGS: dict[str, dict[str, Any]] = {
    "Classification": {"multi_label": bool},
    "TokenLabelling": {},
    "Segmentation": {"decoder": str, "decoder_args": dict[str, Any], "auxiliary": float, "dropout": float},
    "Detection": {"detector": dict[str, Any]},
}

# Attributes of the data module that a checkpoint stores.
DATA_ATTRIBUTES = ("class_names", "mean", "std", "input_size", "crop_pct")

_ENTRIES: dict[str, Any] = {
    "num_classes": int,
    "class_names": Sequence[str] | None,
    "mean": Sequence[float] | None,
    "std": Sequence[float] | None,
    "input_size": tuple[int, int, int] | None,
    "crop_pct": float | None,
    "resize": tuple[int, int] | None,
    "category_ids": Sequence[int] | None,
    "lora": dict[str, Any],
    "teacher": str | None,
    "ema_is_better": bool,
    "thresholds": dict[str, float],
}


def read_info(path: str | Path) -> dict[str, Any]:
    """Return the metadata of a `glmix fit` checkpoint without building its network; see `checked_info`."""
    path = Path(path)
    return checked_info(read_run_checkpoint(path), path)


def checked_info(checkpoint: dict[str, Any], path: Path) -> dict[str, Any]:
    """Return the validated metadata of a checkpoint.

    Args:
        checkpoint: content of the checkpoint file.
        path: path of the file, for error messages.

    Returns:
        A dictionary with the keys model, model_args, num_classes, task, build_args, ema_is_better and all names in
        `DATA_ATTRIBUTES`, whose values are None if the data module did not have them. Segmentation adds `resize`,
        detection adds `category_ids`, multi-label classification adds `thresholds`, the threshold on the probabilities
        of the raw ("") and the EMA ("_ema") weights, distillation adds `teacher`, the file of the teacher, and LoRA
        adds `lora`, its configuration.

    Raises:
        InputError: if an entry is missing, or has a type or value that `glmix fit` does not write.
    """
    found = checkpoint.get(INFO)
    if not isinstance(found, dict):
        raise InputError(f"{path} has no entry {INFO!r} with the model name: it is not a checkpoint of `glmix fit`.")
    task = found.get("task")
    if not isinstance(task, str) or task not in BUILD_ARGS:
        raise InputError(f"{path} has the task {task!r}; accepted tasks are {', '.join(BUILD_ARGS)}.")
    info: dict[str, Any] = {"ema_is_better": False, **dict.fromkeys(DATA_ATTRIBUTES), **found}
    known = {name: info[name] for name in _ENTRIES if name in info}
    info |= checked_arguments(known, _ENTRIES, path, "entries")
    info["model"], info["model_args"] = checked_model_args(info.get("model"), info.get("model_args"), path)
    info["build_args"] = checked_arguments(info.get("build_args"), BUILD_ARGS[task], path, "build_args")
    _check_values(info, path)
    return info


def _check_values(info: dict[str, Any], path: Path) -> None:
    classes = info.get("num_classes")
    if classes is None or classes < 1:
        raise InputError(f"{path} has num_classes {classes}; it must be at least 1.")
    for name in ("class_names", "category_ids"):
        if info.get(name) is not None and len(info[name]) != classes:
            raise InputError(f"{path} has {len(info[name])} {name} for {classes} classes.")
    mean, std, size = info["mean"], info["std"], info["input_size"]
    if (mean is None) != (std is None) or (mean is not None and (not mean or len(mean) != len(std))):
        raise InputError(f"{path} has mean {mean} and std {std}; both need one value per channel.")
    if std is not None and min(std) <= 0:
        raise InputError(f"{path} has std {std}; all values must be above 0.")
    if size is not None and min(size) < 1:
        raise InputError(f"{path} has input_size {size}; all values must be at least 1.")
    if info["crop_pct"] is not None and info["crop_pct"] <= 0:
        raise InputError(f"{path} has crop_pct {info['crop_pct']}; it must be above 0.")
    for threshold in (info.get("thresholds") or {}).values():
        if not 0 <= threshold <= 1:
            raise InputError(f"{path} has the threshold {threshold}; it must be from 0 to 1.")
    if info.get("resize") is not None and min(info["resize"]) < 1:
        raise InputError(f"{path} has resize {info['resize']}; all values must be at least 1.")
