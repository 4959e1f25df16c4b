"""The house: arrows go one way, importing is silent and needs torch and timm alone."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src"
FILES = sorted(SOURCE.rglob("*.py"))

# What each part of the package may import of the others.
ARROWS = {
    "layers": set(),
    "models": {"layers"},
    "data": set(),
    "configs": set(),
    "bench": {"models", "layers", "deploy"},
    "deploy": {"models", "layers"},
    "slots": {"models", "layers", "data"},
    "tasks": {"models", "layers", "data", "slots", "configs"},
}
EXTRAS = {"lightning", "torchmetrics", "torchdata", "jsonargparse", "segmentation_models_pytorch", "transformers"}
EXTRAS |= {"matplotlib", "onnx", "onnxruntime", "onnxscript", "rich", "tensorboard", "pycocotools", "kmedoids"}
EXTRAS |= {"faster_coco_eval", "sklearn", "skimage", "scipy", "pytorch_grad_cam", "playwright"}


def imported_parts(path: Path) -> set[str]:
    """The parts of glmix that a file imports, anywhere in it."""
    package = path.relative_to(SOURCE).with_suffix("").parts[:-1]
    parts = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            base = list(package[: len(package) - node.level + 1]) if node.level else []
            names = [[*base, *(node.module or "").split(".")]]
            names = [[p for p in name if p] for name in names]
            if names[0] == ["glmix"]:
                names = [["glmix", alias.name] for alias in node.names]
        elif isinstance(node, ast.Import):
            names = [alias.name.split(".") for alias in node.names]
        else:
            continue
        parts |= {name[1] for name in names if name[0] == "glmix" and len(name) > 1}
    return parts


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(SOURCE)))
def test_arrows_go_one_way(path):
    part = path.relative_to(SOURCE).parts
    if part[0] != "glmix" or len(part) < 3:
        return  # the command line and the package's front door may use everything
    allowed = ARROWS[part[1]] | {part[1]}
    assert imported_parts(path) - {"_version", "errors", "files", "memory"} <= allowed


def test_layers_are_made_of_torch_and_timms_layers_alone():
    for path in (SOURCE / "glmix" / "layers").glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            names += [node.module] if isinstance(node, ast.ImportFrom) and not node.level and node.module else []
            for name in names:
                assert name.split(".")[0] in {*sys.stdlib_module_names, "torch"} or name == "timm.layers", (path, name)


def test_importing_is_silent_and_needs_no_extra():
    code = f"""
import sys
import glmix, timm
assert timm.is_model("glnet_4g")
loaded = {EXTRAS!r} & {{name.split(".")[0] for name in sys.modules}}
assert not loaded, loaded
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert result.stdout == ""


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(SOURCE)))
def test_files_are_short(path):
    assert len(path.read_text().splitlines()) <= 400
