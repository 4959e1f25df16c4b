"""Safe reading and checking of checkpoint files; no code in a file is executed."""

import argparse
import pickle
import struct
import zipfile
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from timm.models import clean_state_dict
from torch import Tensor, nn

from ..errors import InputError

__all__ = ["INFO", "MALFORMED", "StateDict", "mismatches", "read_file", "raise_on_mismatches", "state_dict_in"]

StateDict = dict[str, Tensor]
INFO = "glmix"  # the key of the metadata in a checkpoint of `glmix fit`

# Exceptions that torch and safetensors raise for malformed files.
MALFORMED = (
    pickle.UnpicklingError,
    safetensors.SafetensorError,
    zipfile.BadZipFile,
    struct.error,
    EOFError,
    RuntimeError,
    ValueError,
    TypeError,
    AttributeError,
    AssertionError,
    ArithmeticError,
    LookupError,
)


def read_file(path: Path, *, mmap: bool = False) -> dict[str, Any]:
    """Read a file written by torch.save or safetensors.

    Args:
        path: the file.
        mmap: memory-map the tensors, so that they are read when they are used.

    Returns:
        The dictionary in the file, with tensors on the CPU. Its keys and values are not checked.

    Raises:
        InputError: the path is a folder, or the file is malformed or contains Python objects other than weights.
        FileNotFoundError: the file does not exist.
    """
    if path.is_dir():
        raise InputError(f"{path} is a folder; expected a checkpoint file.")
    if not path.is_file():
        raise FileNotFoundError(f"No checkpoint at {path}.")
    with path.open("rb") as file:
        head = file.read(9)
    try:
        if path.suffix == ".safetensors" or head[8:9] == b"{":  # safetensors: eight bytes with the length, then JSON
            return dict(safetensors.torch.load_file(path))
        with torch.serialization.safe_globals([argparse.Namespace]):  # saved by many training scripts
            content = torch.load(path, map_location="cpu", weights_only=True, mmap=mmap and zipfile.is_zipfile(path))
    except MALFORMED as error:
        names = _unsafe_names(path) if isinstance(error, pickle.UnpicklingError) else []
        if names or "Weights only load failed" in str(error):
            raise InputError(_unsafe_message(path, names)) from error
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise InputError(f"{path} is not a PyTorch or safetensors checkpoint, or is damaged: {reason}") from error
    if not isinstance(content, dict):
        raise InputError(f"{path} contains a {type(content).__name__}, not a dict with weights.")
    return content


def _unsafe_names(path: Path) -> list[str]:
    try:
        return torch.serialization.get_unsafe_globals_in_checkpoint(str(path))
    except MALFORMED:  # older formats cannot be inspected
        return []


def _unsafe_message(path: Path, names: list[str]) -> str:
    found = f" ({', '.join(names)})" if names else ""
    return (
        f"{path} was not loaded: it is damaged or contains Python objects other than weights{found}, and unpickling "
        "such objects can run arbitrary code. If you trust its source, save only its state dict, with torch.save or as "
        "safetensors, and load that file."
    )


def state_dict_in(weights: object, path: Path) -> StateDict:
    """Return the tensors of a state dict from a file, without the name prefixes that wrapper modules add.

    Args:
        weights: the state dict.
        path: the file, for messages.

    Raises:
        InputError: there are no tensors, or tensors that cannot be copied into a model.
    """
    if not isinstance(weights, dict) or not any(isinstance(tensor, Tensor) for tensor in weights.values()):
        raise InputError(f"{path} contains no weights: expected a state dict, or one under 'model' or 'model_ema'.")
    tensors: StateDict = {}
    for name, tensor in weights.items():
        if not isinstance(name, str):
            raise InputError(f"{path} contains weights under the key {name!r}, but the keys must be strings.")
        if isinstance(tensor, Tensor):
            if tensor.layout != torch.strided or tensor.is_quantized or tensor.is_nested or tensor.is_meta:
                raise InputError(f"{path} contains {name} as a {_kind(tensor)} tensor, but weights must be dense.")
            tensors[name] = tensor
    cleaned: StateDict = clean_state_dict(tensors)
    return cleaned


def _kind(tensor: Tensor) -> str:
    if tensor.is_meta:
        return "meta"
    if tensor.is_nested:
        return "nested"
    return "quantised" if tensor.is_quantized else "sparse"


def mismatches(state_dict: StateDict, model: nn.Module, replaced: tuple[str, ...] = ()) -> list[str]:
    """List the differences in names, shapes and types between a state dict and a model.

    Args:
        state_dict: the weights.
        model: the model.
        replaced: prefixes of names to ignore.

    Returns:
        One line per difference; an empty list if the weights fit.
    """
    wanted = {name: tensor for name, tensor in model.state_dict().items() if not name.startswith(replaced)}
    given = {name: tensor for name, tensor in state_dict.items() if not name.startswith(replaced)}
    lines = [f"missing: {name} {tuple(tensor.shape)}" for name, tensor in wanted.items() if name not in given]
    lines += [f"not in the model: {name} {tuple(t.shape)}" for name, t in given.items() if name not in wanted]
    both = [(name, given[name], wanted[name]) for name in wanted if name in given]
    lines += [
        f"wrong shape: {name} is {tuple(found.shape)}, the model has {tuple(own.shape)}"
        for name, found, own in both
        if found.shape != own.shape
    ]
    lines += [
        f"wrong type: {name} is {found.dtype}, the model has {own.dtype}"
        for name, found, own in both
        if (found.is_floating_point(), found.is_complex()) != (own.is_floating_point(), own.is_complex())
    ]
    return lines


def raise_on_mismatches(lines: list[str], source: object, what: str) -> None:
    """Raise an InputError with the first 20 lines of `mismatches` if there are any."""
    if lines:
        shown = "\n  ".join(lines[:20]) + (f"\n  ... and {len(lines) - 20} more" if len(lines) > 20 else "")
        raise InputError(f"{source} does not fit {what}:\n  {shown}")
