"""What a checkpoint of `glmix fit` says of itself, checked: it comes from a file that anyone may have written."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..errors import InputError
from ..models.checkpoint_file import INFO
from ..models.restore import checked_arguments, checked_model_args
from .weights import open_run

__all__ = ["BUILD_ARGS", "DATA", "checked_info", "read_info"]

# Arguments of a task that a checkpoint may give, those that `Task.build_args` writes.
BUILD_ARGS: dict[str, dict[str, Any]] = {
    "Classification": {"multi_label": bool},
    "TokenLabelling": {},
    "Segmentation": {"decoder": str, "decoder_args": dict[str, Any], "auxiliary": float, "dropout": float},
    "Detection": {"detector": dict[str, Any]},
}

# What a checkpoint keeps of its data.
DATA = ("class_names", "mean", "std", "input_size", "crop_pct")

_ENTRIES: dict[str, Any] = {
    "num_classes": int,
    "class_names": Sequence[str] | None,
    "mean": Sequence[float] | None,
    "std": Sequence[float] | None,
    "input_size": tuple[int, int, int] | None,
    "crop_pct": float | None,
    "resize": tuple[int, int] | None,
    "category_ids": Sequence[int] | None,
    "ema_is_better": bool,
}


def read_info(path: str | Path) -> dict[str, Any]:
    """Return what a checkpoint of `glmix fit` says of itself, without building its network; see `checked_info`."""
    path = Path(path)
    return checked_info(open_run(path), path)


def checked_info(checkpoint: dict[str, Any], path: Path) -> dict[str, Any]:
    """Return what a checkpoint says of itself.

    Args:
        checkpoint: all that is in the file.
        path: the file, for messages.

    Returns:
        model, model_args, num_classes, task, build_args, ema_is_better, and all of `DATA`, None where the data did not
        tell it. Segmentation adds `resize`, detection `category_ids`.

    Raises:
        InputError: an entry is missing, or has a type or value that `glmix fit` does not write.
    """
    found = checkpoint.get(INFO)
    if not isinstance(found, dict):
        raise InputError(f"{path} does not say which model it holds: it is no checkpoint of `glmix fit`.")
    task = found.get("task")
    if not isinstance(task, str) or task not in BUILD_ARGS:
        raise InputError(f"{path} holds the task {task!r}; known are {', '.join(BUILD_ARGS)}.")
    info: dict[str, Any] = {"ema_is_better": False, **dict.fromkeys(DATA), **found}
    known = {name: info[name] for name in _ENTRIES if name in info}
    info |= checked_arguments(known, _ENTRIES, path, "entries")
    info["model"], info["model_args"] = checked_model_args(info.get("model"), info.get("model_args"), path)
    info["build_args"] = checked_arguments(info.get("build_args"), BUILD_ARGS[task], path, "build_args")
    _check_values(info, path)
    return info


def _check_values(info: dict[str, Any], path: Path) -> None:
    classes = info.get("num_classes")
    if classes is None or classes < 1:
        raise InputError(f"{path} says that it has {classes} classes, and 1 or more are accepted.")
    for name in ("class_names", "category_ids"):
        if info.get(name) is not None and len(info[name]) != classes:
            raise InputError(f"{path} holds {len(info[name])} {name} for {classes} classes.")
    mean, std, size = info["mean"], info["std"], info["input_size"]
    if (mean is None) != (std is None) or (mean is not None and (not mean or len(mean) != len(std))):
        raise InputError(f"{path} holds the mean {mean} and the deviation {std}, and one of each channel is accepted.")
    if std is not None and min(std) <= 0:
        raise InputError(f"{path} holds the deviation {std}, and numbers above 0 are accepted.")
    if size is not None and min(size) < 1:
        raise InputError(f"{path} holds the input_size {size}, and numbers from 1 are accepted.")
    if info["crop_pct"] is not None and info["crop_pct"] <= 0:
        raise InputError(f"{path} holds the crop_pct {info['crop_pct']}, and a number above 0 is accepted.")
    if info.get("resize") is not None and min(info["resize"]) < 1:
        raise InputError(f"{path} holds the resize {info['resize']}, and numbers from 1 are accepted.")
