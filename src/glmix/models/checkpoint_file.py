"""Checkpoint files: read without running any code that they may hold, and checked before anything uses them."""

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
INFO = "glmix"  # the entry by which a checkpoint of `glmix fit` says what it holds

# What the readers of torch and safetensors raise for bytes that are not what they should be.
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
    """Read a file of torch.save or safetensors.

    Args:
        path: the file.
        mmap: map tensors into memory and read them when they are used.

    Returns:
        The dictionary in it, with tensors on the CPU. Its keys and values are not checked.

    Raises:
        InputError: it is a folder or malformed, or holds Python objects other than weights.
        FileNotFoundError: there is no file.
    """
    if path.is_dir():
        raise InputError(f"{path} is a folder, and a checkpoint file is needed.")
    if not path.is_file():
        raise FileNotFoundError(f"No checkpoint at {path}.")
    with path.open("rb") as file:
        head = file.read(9)
    try:
        if path.suffix == ".safetensors" or head[8:9] == b"{":  # eight bytes of length, then JSON
            return dict(safetensors.torch.load_file(path))
        with torch.serialization.safe_globals([argparse.Namespace]):  # training scripts save their arguments
            content = torch.load(path, map_location="cpu", weights_only=True, mmap=mmap and zipfile.is_zipfile(path))
    except MALFORMED as error:
        names = _unsafe_names(path) if isinstance(error, pickle.UnpicklingError) else []
        if names or "Weights only load failed" in str(error):
            raise InputError(_refusal(path, names)) from error
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise InputError(f"{path} is not a PyTorch or safetensors checkpoint, or is damaged: {reason}") from error
    if not isinstance(content, dict):
        raise InputError(f"{path} holds a {type(content).__name__}, not a dict with weights.")
    return content


def _unsafe_names(path: Path) -> list[str]:
    try:
        return torch.serialization.get_unsafe_globals_in_checkpoint(str(path))
    except MALFORMED:  # older formats cannot be inspected without being read
        return []


def _refusal(path: Path, names: list[str]) -> str:
    found = f" ({', '.join(names)})" if names else ""
    return (
        f"{path} was not loaded: it is damaged or holds Python objects other than weights{found}, and reading those "
        "can run any code. If you trust where it comes from, save its state dict alone, with torch.save or as "
        "safetensors, and load that."
    )


def state_dict_in(weights: object, path: Path) -> StateDict:
    """Return the tensors of a state dict that was read from a file, by name, without prefixes of wrappers.

    Raises:
        InputError: it holds no tensors, or tensors whose numbers cannot be copied into a model.
    """
    if not isinstance(weights, dict) or not any(isinstance(tensor, Tensor) for tensor in weights.values()):
        raise InputError(f"{path} holds no weights: expected a state dict, or one under 'model' or 'model_ema'.")
    tensors: StateDict = {}
    for name, tensor in weights.items():
        if not isinstance(name, str):
            raise InputError(f"{path} holds weights under the key {name!r}, and names of weights are text.")
        if isinstance(tensor, Tensor):
            if tensor.layout != torch.strided or tensor.is_quantized or tensor.is_nested or tensor.is_meta:
                raise InputError(f"{path} holds {name} as a {_kind(tensor)} tensor, and weights are dense numbers.")
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
    """List what keeps weights from fitting a model, a line each, apart from names that begin with one of `replaced`."""
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
    """Raise an InputError with the first lines of `mismatches`, if there are any."""
    if lines:
        shown = "\n  ".join(lines[:20]) + (f"\n  ... and {len(lines) - 20} more" if len(lines) > 20 else "")
        raise InputError(f"{source} does not fit {what}:\n  {shown}")
