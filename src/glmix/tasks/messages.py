"""What is wrong with a configuration, in one sentence, from what jsonargparse says about it in many lines."""

import dataclasses
import inspect
import re
import types
import typing
from collections.abc import Iterable
from importlib import import_module
from typing import Any

from .weights import nearest

__all__ = ["accepted", "explain"]

_UNKNOWN = re.compile(
    r"Option '(?P<option>[\w.]+)' is not accepted"
    r"|unrecognized arguments: (?:--)?(?P<argument>[\w.]+)"
    r"|[Kk]ey '(?P<key>[\w.]+)' is not expected"
    r"|does not accept option '(?P<nested>[\w.]+)'"
)
_CLASS = re.compile(r"class_path '([\w.]+)'")
_VALUE = re.compile(r'Parser key "(?P<key>[\w.]+)":\s*(?P<what>Expected[^\n]+|Import path[^\n]+)')


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
    """The sentence. `known` are the keys outside of the classes that YAML names."""
    unknown = _UNKNOWN.search(message)
    if unknown is None:
        value = _VALUE.search(message)
        return f"{value['key']}: {value['what'].strip()}" if value else message
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
