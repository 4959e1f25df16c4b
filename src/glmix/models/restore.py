"""Models that a file describes: a name and constructor arguments, checked before anything is built with them.

Files come from strangers. What is built here is built from the registry of timm, without pretrained weights, with
arguments that are known and plain, so that no file can have it use the network or open another file.
"""

import inspect
import math
import types
import typing
from collections.abc import Mapping, Sequence
from typing import Any, Literal, Union, get_args, get_origin

import timm
from torch import nn

from ..errors import InputError
from .glnet import GLNet
from .variants import default_cfgs

__all__ = [
    "BUILD_ERRORS",
    "build_described",
    "checked_arguments",
    "checked_model_args",
    "first_line",
    "fits",
    "is_plain",
]

# What constructors raise for arguments of the right types that make no network.
BUILD_ERRORS = (
    TypeError,
    ValueError,
    RuntimeError,
    AssertionError,
    AttributeError,
    ArithmeticError,
    LookupError,
)

_NOT_FROM_FILES = {"num_classes", "device", "dtype"}

# Arguments of timm's other models that a file may set. Their constructors take any keywords and pass some of them to
# timm's loader, so the names are listed here instead of read off a signature.
_TIMM_ARGS = {
    "act_layer": str,
    "attn_drop_rate": float,
    "block_size": int,
    "class_token": bool,
    "depth": int,
    "depths": int | Sequence[int],
    "dims": int | Sequence[int],
    "drop_block_rate": float,
    "drop_path_rate": float,
    "drop_rate": float,
    "dynamic_img_size": bool,
    "embed_dim": int | Sequence[int],
    "global_pool": str,
    "head_init_scale": float,
    "img_size": int | Sequence[int],
    "in_chans": int,
    "init_values": float,
    "ls_init_value": float,
    "mlp_ratio": float | Sequence[float],
    "norm_layer": str,
    "num_heads": int | Sequence[int],
    "output_stride": int,
    "patch_size": int | Sequence[int],
    "pos_drop_rate": float,
    "proj_drop_rate": float,
    "qkv_bias": bool,
    "strict_img_size": bool,
    "window_size": int | Sequence[int],
}


def is_plain(value: object, depth: int = 4) -> bool:
    """Tell whether a value is a number, text, a boolean or None, or a list or dictionary of such values."""
    if value is None or type(value) in (bool, int, float, str):
        return True
    if depth == 0:
        return False
    if type(value) in (list, tuple):
        return all(is_plain(item, depth - 1) for item in value)  # type: ignore[attr-defined]
    return type(value) is dict and all(type(k) is str and is_plain(v, depth - 1) for k, v in value.items())


def fits(value: object, hint: Any) -> bool:
    """Tell whether a plain value has the type of an annotation. A list does for a tuple, a whole number for a float."""
    if not is_plain(value):
        return False
    origin, args = get_origin(hint), get_args(hint)
    if hint is Any:
        return True
    if origin in (Union, types.UnionType):
        return any(fits(value, arg) for arg in args)
    if origin is Literal:
        return value in args
    if hint is float:
        return type(value) in (int, float) and math.isfinite(value)  # type: ignore[arg-type]
    if origin is tuple and args[-1] is not ...:
        return isinstance(value, list | tuple) and len(value) == len(args) and all(map(fits, value, args))
    if origin in (Sequence, list, tuple):
        return isinstance(value, list | tuple) and all(fits(item, args[0]) for item in value)
    if origin in (dict, Mapping):
        return isinstance(value, dict) and all(fits(item, args[1]) for item in value.values())
    return type(value) is (types.NoneType if hint is None else hint)


def checked_arguments(given: object, accepted: Mapping[str, Any], source: object, what: str) -> dict[str, Any]:
    """Check arguments that a file gives.

    Args:
        given: what the file holds in place of the arguments.
        accepted: annotations of the arguments that are known, by name.
        source: the file, for messages.
        what: what the arguments are called, for messages.

    Returns:
        The arguments.

    Raises:
        InputError: they are no dictionary, one is not known, or one has another type.
    """
    if type(given) is not dict:
        raise InputError(f"{source} holds {what} of type {type(given).__name__}, and they must be a dictionary.")
    for name, value in given.items():
        if name not in accepted:
            known = ", ".join(sorted(accepted)) or "none"
            raise InputError(f"{source} holds {name!r} among its {what}; accepted from a file: {known}.")
        if not fits(value, accepted[name]):
            raise InputError(
                f"{source} holds {what} with {name} = {_shown(value)}, and {_name(accepted[name])} is accepted."
            )
    return dict(given)


def _shown(value: object) -> str:
    text = repr(value) if is_plain(value) else f"an object of type {type(value).__name__}"
    return text if len(text) <= 60 else f"{text[:57]}..."


def _name(hint: Any) -> str:
    return hint.__name__ if isinstance(hint, type) and get_origin(hint) is None else str(hint).replace("typing.", "")


def checked_model_args(name: object, model_args: object, source: object) -> tuple[str, dict[str, Any]]:
    """Check the model and its arguments that a file names.

    Args:
        name: the entry in place of the model's name.
        model_args: the entry in place of its arguments.
        source: the file, for messages.

    Returns:
        The name, and the arguments without `pretrained`: the file has the weights.

    Raises:
        InputError: the name is not in the registry of timm, or the arguments are not accepted from files.
    """
    if not isinstance(name, str) or not timm.is_model(name):
        raise InputError(f"{source} names the model {_shown(name)}, and only registered models of timm are built.")
    if type(model_args) is dict:
        model_args = {key: value for key, value in model_args.items() if key != "pretrained"}
    if name.split(".")[0] in default_cfgs:
        hints = typing.get_type_hints(GLNet.__init__)
        accepted = {key: hints[key] for key in inspect.signature(GLNet).parameters if key not in _NOT_FROM_FILES}
    else:
        accepted = dict(_TIMM_ARGS)
    return name, checked_arguments(model_args, accepted, source, "model_args")


def build_described(name: str, model_args: dict[str, Any], source: object, **options: Any) -> nn.Module:
    """Build a model with random weights from arguments that `checked_model_args` returned.

    Raises:
        InputError: there is no network of these arguments.
    """
    try:
        model: nn.Module = timm.create_model(name, pretrained=False, **model_args, **options)
    except BUILD_ERRORS as error:
        raise InputError(f"{source} describes a {name} that cannot be built: {first_line(error)}") from error
    return model


def first_line(error: BaseException) -> str:
    """Return the first line of an exception's text, or its type where it has none."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]
