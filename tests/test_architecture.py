"""Allowed imports between packages; `import glmix` prints nothing and only needs torch and timm."""

import ast
import graphlib
import subprocess
import sys
from pathlib import Path

SOURCE = Path(__file__).parents[1] / "src"
FILES = sorted(SOURCE.rglob("*.py"))

# The parts of the package that each part may import besides itself and SHARED. A part is a folder or a module of
# `glmix`. The subfolders of data and tasks are separate parts, because tasks must not import each other.
SHARED = {"_version", "compat", "errors", "files", "interrupts", "memory", "pages"}
DATA = {"data.core", "data.scenes", "data.classification", "data.segmentation", "data.detection"}
IMPORTS = {
    "layers": set(),
    "models": {"layers"},
    "configs": set(),
    "run": {"models"},
    "data": {"data.scenes"},
    "data.scenes": {"data.core"},
    "data.core": set(),
    "data.classification": {"data.core", "data.scenes"},
    "data.segmentation": {"data.core", "data.scenes"},
    "data.detection": {"data.core", "data.scenes"},
    "drawing": {"data.scenes"},  # the class colours
    "slots": {"models", "layers", "data.scenes", "data.classification", "data.segmentation"},
    "inference": {"models", "slots", "deploy", "data.core", "data.classification"},
    "deploy": {"models", "layers", "data.core", "data.scenes"},  # the images that calibrate int8
    "bench": {"models", "layers", "deploy"},
    "training": {"layers", "models"},
    "weights": {"models", "training"},  # it imports the task of a checkpoint dynamically
    "hub": {"models", "weights"},
    "tasks.classification": {"training", "weights"},
    "tasks.token_labelling": {"models", "training", "tasks.classification"},
    "tasks.segmentation": {"layers", "models", "training", "weights", "drawing"}
    | {"data.core", "data.scenes", "data.segmentation"},
    "tasks.detection": {"layers", "models", "training", "weights", "drawing"}
    | {"data.core", "data.scenes", "data.detection"},
    "tasks.weak_segmentation": {"models", "slots", "training", "weights", "data.core", "data.scenes"}
    | {"data.classification", "data.segmentation", "tasks.classification", "tasks.segmentation"},
    "reports": {"drawing", "data.core", "tasks.segmentation", "tasks.detection"},
    "tasks": {
        "reports",
        "training",
        "weights",
        "configs",
        "data.core",
        "data.classification",
        "data.segmentation",
        "data.detection",
    }
    | {"tasks.classification", "tasks.token_labelling", "tasks.segmentation", "tasks.detection"},
    "demo": {"models", "slots", "training", "data.classification", "data.scenes"}
    | {"tasks.classification", "tasks.weak_segmentation"},
}
DIVIDED = {"data", "tasks"}
EXTRAS = {"lightning", "torchmetrics", "torchdata", "jsonargparse", "segmentation_models_pytorch", "transformers"}
EXTRAS |= {"matplotlib", "onnx", "onnxruntime", "onnxscript", "rich", "tensorboard", "pycocotools", "kmedoids"}
EXTRAS |= {"faster_coco_eval", "sklearn", "skimage", "scipy", "pytorch_grad_cam", "playwright"}
EXTRAS |= {"peft", "wandb", "mlflow", "optuna", "pyarrow", "fsspec", "datasets", "ray", "faiss", "hnswlib", "umap"}


def part_of(names: list[str]) -> str:
    """Return the part of `glmix` that a module belongs to, given its dotted name after `glmix` as a list."""
    divided = names[0] in DIVIDED and len(names) > 1 and (SOURCE / "glmix" / names[0] / names[1]).is_dir()
    return ".".join(names[:2]) if divided else names[0]


def imported_parts(path: Path) -> set[str]:
    """Return the parts of `glmix` that a file imports, also inside functions."""
    package = path.relative_to(SOURCE).with_suffix("").parts[:-1]
    parts = set()
    for node in ast.walk(ast.parse(path.read_text())):
        modules: list[list[str]] = []
        if isinstance(node, ast.ImportFrom):
            base = list(package[: len(package) - node.level + 1]) if node.level else []
            module = [*base, *(node.module or "").split(".")] if node.module else base
            # `from glmix.data import core` imports a module, `from glmix.data.core.loaders import x` a name
            modules = [[*module, alias.name] for alias in node.names]
        elif isinstance(node, ast.Import):
            modules = [alias.name.split(".") for alias in node.names]
        parts |= {part_of(names[1:]) for names in modules if names[0] == "glmix" and len(names) > 1}
    return parts


def allowed_parts(path: Path) -> set[str]:
    """Return the parts of `glmix` that a file may import."""
    names = list(path.relative_to(SOURCE / "glmix").with_suffix("").parts)
    if names in (["__init__"], ["__main__"]):
        # nothing that needs an optional extra
        return {"deploy", "layers", "models", "weights", "errors", "_version"}
    part = part_of(names)
    return {part} if part in SHARED else IMPORTS[part] | {part}


def test_parts_import_each_other_in_one_direction() -> None:
    graphlib.TopologicalSorter(IMPORTS).prepare()  # raises CycleError


def test_imports_are_allowed():
    """The command line may import everything; the next test checks that nothing imports it."""
    paths = [path for path in FILES if path.is_relative_to(SOURCE / "glmix")]
    assert len(paths) > 100
    forbidden = {str(path): imported_parts(path) - SHARED - allowed_parts(path) for path in paths}
    assert {path: parts for path, parts in forbidden.items() if parts} == {}


def test_the_package_does_not_import_the_command_line():
    for path in (SOURCE / "glmix").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) and not node.level else []
            if path.name != "__main__.py":
                assert not any(name.split(".")[0] == "glmix_cli" for name in names), path


def test_layers_import_only_torch_and_timm_layers():
    for path in (SOURCE / "glmix" / "layers").glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            names += [node.module] if isinstance(node, ast.ImportFrom) and not node.level and node.module else []
            for name in names:
                assert name.split(".")[0] in {*sys.stdlib_module_names, "torch"} or name == "timm.layers", (path, name)


def test_import_prints_nothing_and_needs_no_extra_and_no_compiler():
    """Imports of the compiler count only in glmix itself: timm may have imported it already."""
    code = f"""
import builtins, sys
import_module, compiler = builtins.__import__, []

def record(name, globals=None, *args, **kwargs):
    importer = (globals or {{}}).get("__name__", "")
    if importer.split(".")[0] == "glmix" and name.startswith(("torch._inductor", "torch._dynamo")):
        compiler.append((importer, name))
    return import_module(name, globals, *args, **kwargs)

builtins.__import__ = record
import glmix, glmix.slots, timm
assert timm.is_model("glnet_4g")
assert not compiler, compiler
loaded = {EXTRAS!r} & {{name.split(".")[0] for name in sys.modules}}
assert not loaded, loaded
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert result.stdout == ""


def test_files_have_at_most_400_lines():
    lengths = {str(path.relative_to(SOURCE)): len(path.read_text().splitlines()) for path in FILES}
    assert {path: length for path, length in lengths.items() if length > 400} == {}
