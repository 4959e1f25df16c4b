"""Safe loading of `.pt2` files: the content is checked before PyTorch reads it.

`torch.export.load` may unpickle weights and sample inputs, evaluates size expressions as Python code and calls any
function that the graph names. Files written by `export_model` need no pickles, and only arithmetic and tensor
operators. Everything that is not in the lists below is rejected.
"""

import ast
import io
import json
import pickle
import re
import zipfile
from pathlib import Path
from typing import Any

import torch

from ...errors import InputError

__all__ = ["METADATA_KEY", "is_compiled", "read_program"]

METADATA_KEY = "glmix.json"  # the metadata: a member of a .pt2, and a metadata key in the other formats

_MEMBERS = re.compile(
    r"archive_format|archive_version|version|byteorder|\.data/(version|serialization_id)|models/model\.json"
    r"|data/sample_inputs/model\.pt|data/(weights/model_weights|constants/model_constants)_config\.json"
    rf"|data/weights/weight_\d+|data/constants/tensor_\d+|extra/{re.escape(METADATA_KEY)}"
)
_OPERATORS = re.compile(
    r"torch\.ops\.aten\.\w+\.\w+|torch\.sym_(min|max|float|int|not|ite|sum)|math\.(ceil|floor|trunc|sqrt)"
    r"|_operator\.(add|sub|mul|truediv|floordiv|mod|neg|pow|eq|ne|lt|le|gt|ge|and_|or_|not_|getitem)"
)
# The accepted string arguments. Operators that open files need other strings as file names.
_TEXTS = {"none", "tanh", "floor", "trunc", "constant", "reflect", "replicate", "circular", "mean", "sum", "linear"}
_ARGUMENTS = re.compile(
    r"as_(none|tensor|tensors|optional_tensor|optional_tensors|int|ints|int_lists|float|floats|bool|bools|string|name"
    r"|sym_int|sym_ints|sym_float|sym_floats|sym_bool|sym_bools|scalar_type|memory_format|layout|device|expr|complex)"
)
_NODES: tuple[type[ast.AST], ...] = (
    ast.Expression,
    ast.BinOp,
    ast.UnaryOp,
    ast.BoolOp,
    ast.Compare,
    ast.Constant,
    ast.operator,
    ast.unaryop,
)
_NODES += (ast.boolop, ast.cmpop, ast.expr_context, ast.keyword)
_DAMAGED: tuple[type[Exception], ...] = (
    zipfile.BadZipFile,
    pickle.UnpicklingError,
    EOFError,
    RuntimeError,
    ValueError,
    TypeError,
    LookupError,
)
_DAMAGED += (AttributeError, AssertionError)
_CONTAINERS = {None, "builtins.tuple", "builtins.list", "builtins.dict"}


def is_compiled(path: Path) -> bool:
    """Return whether a `.pt2` contains machine code of AOTInductor.

    Raises:
        InputError: the file is not a zip archive.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            return any("aotinductor" in name for name in archive.namelist())
    except zipfile.BadZipFile as error:
        raise InputError(f"{path} is not a .pt2 file: {error}.") from error


def read_program(path: Path) -> tuple[torch.export.ExportedProgram, dict[str, Any]]:
    """Read a `.pt2` of `export_model` that is not compiled.

    Returns:
        The program and the metadata.

    Raises:
        InputError: the file is damaged, or contains anything that `export_model` does not write.
    """
    try:
        extra = {METADATA_KEY: ""}
        program = torch.export.load(io.BytesIO(_checked(path)), extra_files=extra)
        about = json.loads(extra[METADATA_KEY])
    except InputError:
        raise
    except _DAMAGED as error:
        raise InputError(f"{path} is not a .pt2 of `glmix export`, or is damaged: {str(error)[:200]}") from error
    if not isinstance(about, dict) or not all(isinstance(text, str) for text in about.values()):
        raise InputError(
            f"{path} is not a .pt2 of `glmix export`: its {METADATA_KEY} is not an object with string values."
        )
    return program, about


def _checked(path: Path) -> bytes:
    """Check the members of a `.pt2` and return them as a new archive.

    PyTorch reads archives with another library, which may find different members in the original file.
    """
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
        root = names[0].partition("/")[0] + "/"
        members = {}
        for name in names:
            inside = name.removeprefix(root)
            if name == inside or inside in members or not _MEMBERS.fullmatch(inside):
                raise _rejected(path, f"the unknown or duplicate member {name!r}")
            members[inside] = archive.read(name)
    for kind in ("weights", "constants"):
        config = json.loads(members[f"data/{kind}/model_{kind}_config.json"])
        for name, payload in config["config"].items():
            if payload["use_pickle"] is not False:
                raise _rejected(path, f"{name} as a pickle")
            if f"data/{kind}/{payload['path_name']}" not in members:
                raise _rejected(path, f"{name} at the unknown path {payload['path_name']!r}")
    # fail here if the file is unsafe: torch.export.load would fall back to weights_only=False
    torch.load(io.BytesIO(members["data/sample_inputs/model.pt"]), weights_only=True)
    _check_graph(json.loads(members["models/model.json"]), path)
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        for inside, data in members.items():
            archive.writestr(f"{root}{inside}", data)
    return content.getvalue()


def _check_graph(value: Any, path: Path, key: str = "") -> None:
    """Check recursively everything in a graph that PyTorch evaluates, calls or imports."""
    if isinstance(value, list):
        for item in value:
            _check_graph(item, path, key)
    elif isinstance(value, dict):
        for name, item in value.items():
            if name.startswith("as_") and not _ARGUMENTS.fullmatch(name):
                raise _rejected(path, f"an argument of type {name!r}")
            if key == "range_constraints":
                _check_expression(name, path)
            _check_graph(item, path, name)
    elif not isinstance(value, str):
        return
    elif key == "target" and not _OPERATORS.fullmatch(value):
        raise _rejected(path, f"a call of {value!r}")
    elif key == "as_string" and value not in _TEXTS:
        raise _rejected(path, f"the string argument {value!r}")
    elif key in ("expr_str", "guards_code"):
        _check_expression(value, path)
    elif key in ("in_spec", "out_spec"):
        _check_containers(json.loads(value), path)


def _check_expression(text: str, path: Path) -> None:
    """Check that an expression is arithmetic of sizes.

    Examples: `Add(Symbol('s6', integer=True), Integer(-1))`, `L['image'].size()[2] // 4 != 1`.
    """
    try:
        tree = ast.parse(text, mode="eval")
    except (SyntaxError, RecursionError, MemoryError) as error:
        raise _rejected(path, f"the expression {text[:80]!r}") from error
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            allowed = node.func.id.isidentifier() and node.func.id in _FUNCTIONS
        elif isinstance(node, ast.Call):
            allowed = ast.unparse(node.func).endswith((".size", ".sym_min", ".sym_max"))
        elif isinstance(node, ast.Name):
            allowed = node.id in _FUNCTIONS or bool(re.fullmatch(r"L|torch|math|inf|[suz]\d+|True|False", node.id))
        elif isinstance(node, ast.Attribute):
            allowed = node.attr in ("size", "sym_min", "sym_max", "inf", "ceil", "floor")
        elif isinstance(node, ast.Subscript):
            allowed = isinstance(node.slice, ast.Constant)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            allowed = bool(re.fullmatch(r"\w+", node.value))
        else:
            allowed = isinstance(node, _NODES)
        if not allowed:
            raise _rejected(path, f"the expression {text[:80]!r}")


_FUNCTIONS = {"Symbol", "Integer", "Float", "Rational", "Add", "Mul", "Pow", "Min", "Max", "Mod", "FloorDiv", "CeilDiv"}
_FUNCTIONS |= {"PythonMod", "CleanDiv", "IntTrueDiv", "FloatTrueDiv", "ToFloat", "PowByNatural", "CeilToInt"}
_FUNCTIONS |= {"FloorToInt", "TruncToInt", "Eq", "Ne", "Lt", "Le", "Gt", "Ge", "And", "Or", "Not", "max", "min"}
_FUNCTIONS |= {"Equality", "Unequality", "StrictLessThan", "LessThan", "StrictGreaterThan", "GreaterThan"}
_FUNCTIONS |= {"true", "false"}


def _check_containers(spec: Any, path: Path) -> None:
    """Check that arguments and results are nested only in tuples, lists and dictionaries with string keys."""
    if isinstance(spec, list):
        for item in spec:
            _check_containers(item, path)
    elif isinstance(spec, dict):
        context = json.loads(spec["context"]) if spec.get("context") else None
        plain = context is None or (isinstance(context, list) and all(isinstance(item, str) for item in context))
        if spec.get("type") not in _CONTAINERS or not plain:
            raise _rejected(path, f"arguments in a container of type {spec.get('type')!r}")
        _check_containers(spec.get("children_spec", []), path)


def _rejected(path: Path, what: str) -> InputError:
    return InputError(
        f"{path} was not loaded: it contains {what}, which `glmix export` never writes and which may run arbitrary "
        "code. If you created the file yourself, load it with trusted=True."
    )
