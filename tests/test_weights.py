"""`glmix convert` and `glmix.load` for every kind of dense prediction network."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

import glmix
from glmix.tasks.detection import DetectionPredictor
from glmix.tasks.segmentation import SegmentationPredictor
from glmix_cli import main
from tests.checkpoints import CATEGORY_IDS, NAMES, detector, segmenter


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("checkpoints")
    return {"Detection": detector(root, "mask_rcnn"), "Segmentation": segmenter(root)}


@pytest.fixture(scope="module")
def folders(checkpoints: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("folders")
    for task, path in checkpoints.items():
        assert main(["convert", str(path), str(root / task)]) == 0
    return {task: root / task for task in checkpoints}


@pytest.mark.parametrize("task", ["Detection", "Segmentation"])
def test_a_folder_holds_all_of_a_checkpoint(checkpoints: Any, folders: Any, task: str) -> None:
    before, after = glmix.load(checkpoints[task]), glmix.load(folders[task])
    assert sorted(file.name for file in folders[task].iterdir()) == ["README.md", "config.json", "model.safetensors"]
    assert after.task == task
    assert list(after.info["class_names"]) == NAMES
    assert not after.network.training
    assert type(after.network) is type(before.network)
    assert after.network.pretrained_cfg == before.network.pretrained_cfg
    states = before.network.state_dict(), after.network.state_dict()
    assert states[0].keys() == states[1].keys()
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


def test_the_predictors_and_commands_take_a_folder(checkpoints: Any, folders: Any, tmp_path: Path) -> None:
    image = Image.effect_noise((70, 50), 90).convert("RGB")
    image.save(tmp_path / "photo.png")
    predictors = [SegmentationPredictor.from_checkpoint(source["Segmentation"]) for source in (checkpoints, folders)]
    assert (predictors[0](image).labels == predictors[1](image).labels).all()
    assert DetectionPredictor.from_checkpoint(folders["Detection"]).category_ids == CATEGORY_IDS
    command = ["detect", tmp_path / "photo.png", "--checkpoint", folders["Detection"], "-o", tmp_path / "out"]
    assert main([*map(str, command), "--score", "0"]) == 0
    found = json.loads((tmp_path / "out" / "detections.json").read_text())
    assert [category["id"] for category in found["categories"]] == CATEGORY_IDS
    assert {one["category_id"] for one in found["annotations"]} <= set(CATEGORY_IDS)
    assert found["annotations"]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"task": "Theft"}, r"config\.json has the task 'Theft'"),
        ({"model": "no_such_model"}, r"config\.json names the model 'no_such_model'"),
        ({"num_classes": 2}, r"config\.json has 3 class_names for 2 classes"),
        ({"build_args": {"file": "/etc/passwd"}}, "'file' in its build_args"),
        ({"class_names": None, "num_classes": 2}, r"model\.safetensors does not fit test_glnet"),
    ],
)
def test_a_folder_is_checked_before_its_network_is_built(
    folders: Any, tmp_path: Path, change: dict[str, Any], words: str
) -> None:
    source = folders["Segmentation"]
    config = json.loads((source / "config.json").read_text())
    config["glmix"] |= change
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "model.safetensors").write_bytes((source / "model.safetensors").read_bytes())
    with pytest.raises(glmix.InputError, match=words):
        glmix.load(tmp_path)


def test_a_network_of_another_kind_is_not_saved(tmp_path: Path) -> None:
    loaded = glmix.weights.Loaded(torch.nn.Linear(2, 2), "Classification")
    with pytest.raises(glmix.InputError, match="A Linear for Classification cannot be saved"):
        glmix.save(loaded, tmp_path / "folder")
    assert not (tmp_path / "folder").exists()
