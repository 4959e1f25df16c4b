"""Private APIs of other libraries are used in `glmix.compat` only."""

import argparse
import ast
import multiprocessing
from pathlib import Path

import pytest
from torch import nn

from glmix import compat

SOURCE = Path(__file__).parents[1] / "src"
FILES = [path for path in sorted(SOURCE.rglob("*.py")) if path.name != "compat.py"]

# {file: private names that it may use}, each explained there
ALLOWED = {
    "glmix/bench/macs.py": {  # operators of torch.ops.aten, which have no other names
        "_native_multi_head_attention",
        "_softmax",
        "_native_batch_norm_legit_no_training",
        "_adaptive_avg_pool2d",
    },
    "glmix/data/core/loaders.py": {"_get_iterator"},  # overridden
    "glmix/data/core/workers.py": {"_exit"},  # os._exit is documented
    "glmix/layers/depthwise.py": {"_conv_forward"},
    "glmix/layers/pointwise.py": {"_conv_forward"},
    "glmix/layers/residual.py": {"_conv_forward"},  # super().forward does not work in TorchScript
    "glmix/models/hub.py": {"_model_args"},  # an attribute of GLNet
    "glmix/models/variants.py": {"_model_args"},
    "glmix/tasks/cli.py": {"_prepare_subcommand_parser", "_prepare_subcommand_kwargs"},  # overridden
}


def is_private(name: object) -> bool:
    return isinstance(name, str) and name.startswith("_") and not name.startswith("__") and name != "_"


def defined_names(tree: ast.AST) -> set[str]:
    """Return the names of functions, classes, fields and attributes of `self` that a file defines."""
    names = set()
    for node in ast.walk(tree):
        match node:
            case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.ClassDef():
                names.add(node.name)
            case ast.Name(ctx=ast.Store()):
                names.add(node.id)
            case ast.Attribute(value=ast.Name(id="self" | "cls"), ctx=ast.Store()):
                names.add(node.attr)
    return names


def private_names(tree: ast.AST, own: set[str]) -> set[str]:
    """Return the private names of other libraries that a file imports or accesses.

    Args:
        own: names that the package defines. They are accepted as attributes of `self` and `cls`.
    """
    found: set[str] = set()
    for node in ast.walk(tree):
        match node:
            case ast.Import(names=aliases):
                found |= {part for alias in aliases for part in alias.name.split(".") if is_private(part)}
            case ast.ImportFrom(level=0, module=str(module), names=aliases):
                found |= {part for part in [*module.split("."), *(a.name for a in aliases)] if is_private(part)}
            case ast.Attribute(value=ast.Name(id="self" | "cls"), attr=name):
                found |= {name} - own if is_private(name) else set()
            case ast.Attribute(attr=name) if is_private(name):
                found.add(name)
            case ast.Call(func=ast.Name(id="getattr" | "setattr" | "hasattr" | "delattr"), args=[_, key, *_]) | (
                ast.Subscript(value=ast.Call(func=ast.Name(id="vars")) | ast.Attribute(attr="__dict__"), slice=key)
            ):
                if isinstance(key, ast.Constant) and is_private(key.value):
                    found.add(key.value)
    return found


def test_private_apis_are_used_in_compat_only():
    trees = {path.relative_to(SOURCE).as_posix(): ast.parse(path.read_text()) for path in FILES}
    own = {name for tree in trees.values() for name in defined_names(tree)}
    found = {path: private_names(tree, own) for path, tree in trees.items()}
    assert {path: names for path, names in found.items() if names} == ALLOWED


@pytest.mark.parametrize(
    "code",
    [
        "import torch._private",
        "from torch._private import x",
        "from torch import _private",
        "x._private",
        "x._private = 1",
        "x._private.y()",
        "self._private",
        "super()._private()",
        "getattr(x, '_private', None)",
        "vars(x)['_private']",
        "x.__dict__['_private']",
    ],
)
def test_the_check_finds_private_names(code):
    assert private_names(ast.parse(code), {"_own"}) == {"_private"}


@pytest.mark.parametrize("code", ["self._own", "from .._version import x", "x.__class__", "_own()", "d['_private']"])
def test_the_check_accepts_own_names(code):
    assert private_names(ast.parse(code), {"_own"}) == set()


def test_every_wrapper_is_exported_and_documented():
    defined = {name for name, value in vars(compat).items() if getattr(value, "__module__", "") == compat.__name__}
    assert defined <= set(compat.__all__)
    assert all(vars(compat)[name].__doc__ for name in defined)


def test_compiled_modules():
    module = nn.Linear(2, 2)
    assert not compat.is_compiled(module)
    assert compat.uncompiled(module) is module
    module.compile(backend="eager")
    assert compat.is_compiled(module)
    compat.wrap_compiled_call(module, lambda call: lambda x: "wrapped")
    assert module(None) == "wrapped"


def test_option_names():
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--one")
    parser.add_argument("--two-words")
    assert compat.option_names(parser) == ["one", "two_words"]


def test_child_processes_inherit_values():
    configuration = vars(multiprocessing.current_process())["_config"]
    try:
        compat.inherit_in_child_processes("glmix-test", nn.Linear)
        assert vars(multiprocessing.Process())["_config"]["glmix-test"] is nn.Linear
    finally:
        configuration.pop("glmix-test", None)
