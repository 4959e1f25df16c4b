"""One-sentence error messages for configurations, from the multi-line errors of jsonargparse."""

import dataclasses
import inspect
import re
import types
import typing
from collections.abc import Iterable
from importlib import import_module
from typing import Any

from ..errors import InputError, MissingExtraError
from .weights import nearest

__all__ = ["accepted_arguments", "cause_of", "explain", "misplaced_null"]

_UNKNOWN = re.compile(
    r"Option '(?P<option>[\w.]+)' is not accepted"
    r"|unrecognized arguments: (?:--)?(?P<argument>[\w.]+)"
    r"|[Kk]ey '(?P<key>[\w.]+)' is not expected"
    r"|does not accept option '(?P<nested>[\w.]+)'"
)
_CLASS = re.compile(r"class_path '([\w.]+)'")
_VALUE = re.compile(r'Parser key "(?P<key>[\w.]+)":\s*(?P<what>Expected[^\n]+|Import path[^\n]+)')
_UNION = re.compile(
    r'Parser key "(?P<key>[\w.]+)":\s*Does not validate against any of the Union subtypes\s*Subtypes: (?P<types>[^\n]+)'
)
_GIVEN = re.compile(r"Given value: (?P<value>[^\n]*)")

# Modules of the first version of glmix: a saved configuration may still have their names in `class_path`.
RENAMED = {
    "glmix.data.modules": "glmix.data.classification.datamodule",
    "glmix.data.masks.modules": "glmix.data.segmentation.datamodule",
    "glmix.data.coco.modules": "glmix.data.detection.datamodule",
    "glmix.tasks.token_label": "glmix.tasks.token_labelling",
}
_RENAMED = re.compile(rf"\b({'|'.join(map(re.escape, RENAMED))})\.(\w+)")


def accepted_arguments(owner: Any) -> dict[str, Any]:
    """Return {argument: type} of a class, including arguments that its base classes take through **kwargs."""
    found: dict[str, Any] = {}
    for cls in inspect.getmro(owner):
        if "__init__" not in vars(cls):
            continue
        parameters = inspect.signature(vars(cls)["__init__"]).parameters.values()
        hints = typing.get_type_hints(vars(cls)["__init__"])
        named = [p for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY) and p.name != "self"]
        found.update({p.name: hints.get(p.name, Any) for p in named if p.name not in found})
        if not any(p.kind is p.VAR_KEYWORD for p in parameters):
            break
    return found


def _class_of(hint: Any) -> Any:
    """Return the dataclass in a type hint, which may be optional; None if there is none."""
    options = typing.get_args(hint) if typing.get_origin(hint) in (typing.Union, types.UnionType) else (hint,)
    return next((option for option in options if dataclasses.is_dataclass(option)), None)


def explain(message: str, known: Iterable[str]) -> str:
    """Reduce a message of jsonargparse to one sentence.

    Args:
        message: error message of jsonargparse.
        known: accepted keys that are not arguments of a class in the YAML file.
    """
    renamed = _RENAMED.search(message)
    if renamed is not None:
        new = f"{RENAMED[renamed[1]]}.{renamed[2]}"
        return f"The class_path {renamed[0]} was renamed to {new}; the class name {renamed[2]} works too."
    unknown = _UNKNOWN.search(message)
    if unknown is None:
        value = _VALUE.search(message)
        return f"{value['key']}: {value['what'].strip()}" if value else _explain_union(message)
    key = next(group for group in unknown.groups() if group)
    owners = [match[1] for match in _CLASS.finditer(message) if match.start() < unknown.start()]
    if not owners:
        return f"There is no key {key!r}.{nearest(key, known)}"
    module, _, name = owners[-1].rpartition(".")
    owner = getattr(import_module(module), name)
    *outer, leaf = key.removeprefix("init_args.").split(".")
    for part in outer:
        owner = _class_of(accepted_arguments(owner).get(part)) or owner
    keys = sorted(accepted_arguments(owner))
    return f"{owner.__name__} has no key {leaf!r}.{nearest(leaf, keys)} It takes {', '.join(keys)}."


def _explain_union(message: str) -> str:
    """Describe the innermost value that matches none of the types of a union."""
    unions = list(_UNION.finditer(message))
    given = _GIVEN.search(message, unions[-1].end()) if unions else None
    if given is None:
        return message
    names = re.sub(r"<class '(?:[\w.]+\.)?(\w+)'>", r"\1", unions[-1]["types"].strip("[]")).replace("NoneType", "null")
    return f"{unions[-1]['key']}: expected one of {names}. Got value: {given['value']}"


def misplaced_null(value: Any, name: str) -> str | None:
    """Return an error message for the first argument that is null but must not be; None if there is none.

    Args:
        value: a class parsed by jsonargparse, with class_path and init_args. Nested classes are checked too.
        name: key of the class in the configuration.
    """
    if value is None or "class_path" not in value:
        return None
    module, _, class_name = value["class_path"].rpartition(".")
    return _misplaced_null(getattr(import_module(module), class_name), value.get("init_args"), name)


def _misplaced_null(owner: Any, given: Any, name: str) -> str | None:
    hints = accepted_arguments(owner)
    for key, value in vars(given).items() if given is not None else ():
        hint = hints.get(key, Any)
        if value is None and hint is not Any and type(None) not in typing.get_args(hint):
            return f"{name}.{key} must not be null: it must be of type {getattr(hint, '__name__', hint)}."
        nested = _class_of(hint)
        if nested is not None and value is not None:
            arguments = value.get("init_args", value)
            message = _misplaced_null(nested, arguments, f"{name}.{key}")
            if message is not None:
                return message
    return None


def cause_of(error: BaseException) -> InputError | MissingExtraError | None:
    """Return the user error that caused an exception of jsonargparse; None if the cause is not a user error.

    jsonargparse wraps exceptions of constructors. A missing package, such as that of a logger, is returned as
    `MissingExtraError`.
    """
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, InputError | MissingExtraError):
            return cause
        if isinstance(cause, ModuleNotFoundError):
            hint = "" if "pip install" in str(cause) or not cause.name else f": pip install {cause.name}"
            return MissingExtraError(f"{cause}{hint}")
        cause = cause.__cause__
    return None
