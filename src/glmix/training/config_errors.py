"""What is wrong with a configuration, in one sentence, from what jsonargparse says about it in many lines."""

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

__all__ = ["accepted", "cause_of", "explain", "misplaced_null"]

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

# Modules of the first version, which `class_path` in a saved configuration may still name.
RENAMED = {
    "glmix.data.modules": "glmix.data.classification.datamodule",
    "glmix.data.masks.modules": "glmix.data.segmentation.datamodule",
    "glmix.data.coco.modules": "glmix.data.detection.datamodule",
    "glmix.tasks.token_label": "glmix.tasks.token_labelling",
}
_RENAMED = re.compile(rf"\b({'|'.join(map(re.escape, RENAMED))})\.(\w+)")


def accepted(owner: Any) -> dict[str, Any]:
    """{argument: type} of a class, with those that its bases take through **kwargs."""
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
    """The dataclass that a type stands for, also where it may be None."""
    options = typing.get_args(hint) if typing.get_origin(hint) in (typing.Union, types.UnionType) else (hint,)
    return next((option for option in options if dataclasses.is_dataclass(option)), None)


def explain(message: str, known: Iterable[str]) -> str:
    """Reduce a message of jsonargparse to one sentence.

    Args:
        message: the message.
        known: keys outside of the classes that the YAML names.
    """
    renamed = _RENAMED.search(message)
    if renamed is not None:
        new = f"{RENAMED[renamed[1]]}.{renamed[2]}"
        return f"The class_path {renamed[0]} has become {new}; the name {renamed[2]} alone works too."
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
        owner = _class_of(accepted(owner).get(part)) or owner
    keys = sorted(accepted(owner))
    return f"{owner.__name__} has no key {leaf!r}.{nearest(leaf, keys)} It takes {', '.join(keys)}."


def _explain_union(message: str) -> str:
    """The innermost value that none of several types accepts."""
    unions = list(_UNION.finditer(message))
    given = _GIVEN.search(message, unions[-1].end()) if unions else None
    if given is None:
        return message
    names = re.sub(r"<class '(?:[\w.]+\.)?(\w+)'>", r"\1", unions[-1]["types"].strip("[]")).replace("NoneType", "null")
    return f"{unions[-1]['key']}: expected one of {names}. Got value: {given['value']}"


def misplaced_null(value: Any, name: str) -> str | None:
    """Say in one sentence which argument of a class and its nested classes is null and may not be; None if none is.

    Args:
        value: a class as jsonargparse has parsed it, with class_path and init_args.
        name: what its key is called.
    """
    if value is None or "class_path" not in value:
        return None
    module, _, class_name = value["class_path"].rpartition(".")
    return _misplaced_null(getattr(import_module(module), class_name), value.get("init_args"), name)


def _misplaced_null(owner: Any, given: Any, name: str) -> str | None:
    hints = accepted(owner)
    for key, value in vars(given).items() if given is not None else ():
        hint = hints.get(key, Any)
        if value is None and hint is not Any and type(None) not in typing.get_args(hint):
            return f"{name}.{key} must not be null: it takes {getattr(hint, '__name__', hint)}."
        nested = _class_of(hint)
        if nested is not None and value is not None:
            arguments = value.get("init_args", value)
            wrong = _misplaced_null(nested, arguments, f"{name}.{key}")
            if wrong is not None:
                return wrong
    return None


def cause_of(error: BaseException) -> InputError | MissingExtraError | None:
    """The mistake of the user behind an exception that jsonargparse raises when a class cannot be built, if it is one.

    A class that needs a package which is not installed, such as a logger, becomes a `MissingExtraError`.
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
