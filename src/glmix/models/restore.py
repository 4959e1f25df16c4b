"""Safe construction of models from the name and arguments in a file.

The content of files is not trusted. Only registered models of timm are built, without pretrained weights and only with
known arguments of plain types, so that a file cannot cause network access or open other files.
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

# Exceptions that constructors raise for arguments with correct types but invalid values.
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

# Arguments of timm's other models that a file may set. Their constructors accept any keyword and pass some of them to
# timm's loader, so their signatures cannot be used.
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
    """Return whether a value is a number, string, boolean or None, or a list or dictionary of such values."""
    if value is None or type(value) in (bool, int, float, str):
        return True
    if depth == 0:
        return False
    if type(value) in (list, tuple):
        return all(is_plain(item, depth - 1) for item in value)  # type: ignore[attr-defined]
    return type(value) is dict and all(type(k) is str and is_plain(v, depth - 1) for k, v in value.items())


def fits(value: object, hint: Any) -> bool:
    """Return whether a plain value matches a type annotation. Lists match tuples and integers match floats."""
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
    """Check the arguments in a file.

    Args:
        given: the arguments as read from the file.
        accepted: the type annotations of the accepted arguments by name.
        source: the file, for messages.
        what: a noun for the arguments, for messages.

    Returns:
        The arguments.

    Raises:
        InputError: the arguments are not a dictionary, or an argument is unknown or has the wrong type.
    """
    if type(given) is not dict:
        raise InputError(f"{source} contains {what} of type {type(given).__name__}; expected a dictionary.")
    for name, value in given.items():
        if name not in accepted:
            known = ", ".join(sorted(accepted)) or "none"
            raise InputError(f"{source} contains {name!r} in its {what}; accepted from a file: {known}.")
        if not fits(value, accepted[name]):
            raise InputError(
                f"{source} contains {what} with {name} = {_shown(value)}; expected {_type_name(accepted[name])}."
            )
    return dict(given)


def _shown(value: object) -> str:
    text = repr(value) if is_plain(value) else f"an object of type {type(value).__name__}"
    return text if len(text) <= 60 else f"{text[:57]}..."


def _type_name(hint: Any) -> str:
    return hint.__name__ if isinstance(hint, type) and get_origin(hint) is None else str(hint).replace("typing.", "")


def checked_model_args(name: object, model_args: object, source: object) -> tuple[str, dict[str, Any]]:
    """Check the model name and the model arguments in a file.

    Args:
        name: the model name as read from the file.
        model_args: the model arguments as read from the file.
        source: the file, for messages.

    Returns:
        The name, and the arguments without `pretrained`.

    Raises:
        InputError: the model is not registered with timm, or an argument is not accepted from files.
    """
    if not isinstance(name, str) or not timm.is_model(name):
        raise InputError(f"{source} names the model {_shown(name)}, but only registered models of timm can be built.")
    if type(model_args) is dict:
        model_args = {key: value for key, value in model_args.items() if key != "pretrained"}
    if name.split(".")[0] in default_cfgs:
        hints = typing.get_type_hints(GLNet.__init__)
        accepted = {key: hints[key] for key in inspect.signature(GLNet).parameters if key not in _NOT_FROM_FILES}
    else:
        accepted = dict(_TIMM_ARGS)
    return name, checked_arguments(model_args, accepted, source, "model_args")


def build_described(name: str, model_args: dict[str, Any], source: object, **options: Any) -> nn.Module:
    """Build a model with random weights from the result of `checked_model_args`.

    Args:
        name: the model name.
        model_args: the model arguments.
        source: the file, for messages.
        options: further arguments of `timm.create_model`.

    Raises:
        InputError: the model cannot be built with these arguments.
    """
    try:
        model: nn.Module = timm.create_model(name, pretrained=False, **model_args, **options)
    except BUILD_ERRORS as error:
        raise InputError(f"{source} describes a {name} that cannot be built: {first_line(error)}") from error
    return model


def first_line(error: BaseException) -> str:
    """Return the first line of an exception's message, or its type if the message is empty."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]
