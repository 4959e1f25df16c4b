"""Small runs whose weights the tests of the reports evaluate."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from glmix_cli import main

from ..browser import DESKTOP, TELEPHONE
from ..runs import FEW

SCREENS = {"desktop": DESKTOP, "telephone": {**TELEPHONE, "color_scheme": "dark"}}
SCENES = {"size": 32, "objects": [1, 1]}
SEVERAL = {"size": 32, "objects": [1, 3]}
FEW_BLOCKS = {"model": "test_glnet", "model_args": FEW}
FOUR_STAGES = {
    "model": "test_glnet",
    "model_args": {"widths": [16, 16, 32, 32], "depths": [1, 1, 1, 1], "num_slots": 4},
}
TASKS: dict[str, dict[str, Any]] = {
    "single": {
        "model": {"class_path": "Classification", "init_args": {**FEW_BLOCKS, "ema_decay": 0.5}},
        "data": {"class_path": "glmix.data.classification.datamodule.ScenesData", "init_args": {"scenes": SCENES}},
    },
    "several": {
        "model": {"class_path": "Classification", "init_args": {**FEW_BLOCKS, "multi_label": True}},
        "data": {"class_path": "glmix.data.classification.datamodule.ScenesData", "init_args": {"scenes": SEVERAL}},
    },
    "segmentation": {
        "model": {"class_path": "Segmentation", "init_args": {**FOUR_STAGES, "decoder": "fpn"}},
        "data": {"class_path": "SceneMaskData", "init_args": {"scenes": {"size": 32}}},
    },
    "detection": {
        "model": {
            "class_path": "Detection",
            "init_args": {**FOUR_STAGES, "detector": {"kind": "retinanet", "min_size": 64, "max_size": 64}},
        },
        "data": {"class_path": "DetectionScenes", "init_args": {"scenes": {"size": 32}, "masks": False}},
    },
}


def write(folder: Path, name: str, **data: Any) -> Path:
    """Write the configuration of a task, whose run folder is `folder / "run"`, and return its path."""
    config = TASKS[name]
    arguments = {"train_count": 16, "val_count": 13, "test_count": 9, "batch_size": 8, "eval_batch_size": 4, **data}
    trainer = {"max_epochs": 1, "max_steps": 1, "accelerator": "cpu", "devices": 1, "default_root_dir": f"{folder}/run"}
    content = {
        "model": config["model"],
        "data": {**config["data"], "init_args": {**config["data"]["init_args"], **arguments}},
        "trainer": {**trainer, "logger": False},
    }
    content["model"]["init_args"]["schedule"] = {"warmup_epochs": 0}
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Train each task for one step and validate it; return {task: folder of config.yaml and run/}."""
    folders = {}
    for name in TASKS:
        folder = folders[name] = tmp_path_factory.mktemp(name)
        config = str(write(folder, name))
        assert main(["fit", "--config", config]) == 0
        assert main(["validate", "--config", config]) == 0
    return folders


@pytest.fixture
def open_page(open_file: Callable[..., Any]) -> Callable[[Path, str], Any]:
    return lambda path, screen: open_file(path, **SCREENS[screen])


def cells(page: Any, title: str) -> list[list[str]]:
    """Return the rows of the table below a heading."""
    table = page.locator("section", has=page.get_by_role("heading", name=title, exact=True)).locator("tbody")
    rows: list[list[str]] = table.evaluate(
        "(body) => [...body.rows].map((row) => [...row.cells].map((cell) => cell.textContent))"
    )
    return rows
