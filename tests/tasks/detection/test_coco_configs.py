"""Every COCO recipe has the published hyperparameters, trains and evaluates on small data in the same layout."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from glmix.data.scenes import SceneConfig, write_scenes

ROOT = Path(__file__).parents[3] / "src" / "glmix" / "configs" / "detection" / "coco"
PATHS = sorted(ROOT.glob("*.yaml"))
PUBLISHED = [path for path in PATHS if path.stem != "own"]
QUICK = {"mask_rcnn_glnet_4g_1x", "retinanet_glnet_9g_3x", "own"}
BACKBONE = {"widths": "[16,16,32,32]", "depths": "[1,1,1,1]", "head_dim": "16", "num_slots": "4"}
SMALL = {
    **{f"model.model_args.{name}": value for name, value in BACKBONE.items()},
    "model.detector.channels": 16,
    "model.detector.box_features": 16,
    "model.detector.min_size": 48,
    "model.detector.max_size": 80,
    "data.transforms.min_sizes": "[48,64]",
    "data.transforms.max_size": 80,
    "data.transforms.crop_sizes": "[48,56]",
    "data.transforms.crop_range": "[32,48]",
    "data.batch_size": 2,
    "data.num_workers": 0,
    "trainer.accelerator": "cpu",
    "trainer.max_epochs": 1,
    "trainer.limit_train_batches": 2,
    "trainer.log_every_n_steps": 1,
}


def test_there_is_a_recipe_for_each_detector_backbone_and_length() -> None:
    names = {f"{kind}_{model}_{length}" for kind in ("retinanet", "mask_rcnn") for model in ("glnet_4g", "glnet_9g")
             for length in ("1x", "3x")}  # fmt: skip
    assert {path.stem for path in PUBLISHED} == names


@pytest.mark.parametrize("path", PUBLISHED, ids=lambda path: path.stem)
def test_published_numbers(path: Path) -> None:
    config = yaml.safe_load(path.read_text())
    retinanet, long = path.stem.startswith("retinanet"), path.stem.endswith("3x")
    model, data = config["model"]["init_args"], config["data"]["init_args"]
    assert model["model"] in path.stem
    assert model["model_args"] == {"drop_path_rate": 0.2 if "4g" in path.stem else 0.3}
    assert model["detector"] == {"kind": "retinanet" if retinanet else "mask_rcnn"}
    decay = 1e-4 if retinanet else 0.05
    assert model["optimizer"] == {"name": "adamw", "lr": 1e-4, "base_batch": 16, "weight_decay": decay}
    milestones = [27, 33] if long else [8, 11]
    assert model["schedule"] == {"kind": "step", "milestones": milestones, "warmup_steps": 500}
    assert config["trainer"]["max_epochs"] == (36 if long else 12)
    transforms = data["transforms"]
    assert (transforms["max_size"], transforms["hflip"]) == (1333, 0.5)
    assert transforms["min_sizes"] == (list(range(480, 801, 32)) if long else [800])
    assert ("crop" in transforms) == long
    assert data["masks"] is not retinanet


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)
def test_headers_state_command_data_cost_and_result(path: Path) -> None:
    header = [line for line in path.read_text().splitlines() if line.startswith("#")]
    for word in ("# Command:   ", "# Data:      ", "# Cost:      ", "# Expected:  "):
        assert any(line.startswith(word) for line in header), word
    assert f"glmix fit --config detection/coco/{path.stem} --data.root" in "\n".join(header)


@pytest.fixture(scope="module")
def coco(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Small data in the layout of COCO, and the same images in one folder with a JSON per split."""
    root = tmp_path_factory.mktemp("coco") / "scenes"
    write_scenes(root, "coco", SceneConfig(size=48, objects=(1, 3)), {"train": 6, "val": 3})
    (root / "images").mkdir()
    for split in ("train", "val"):
        content = json.loads((root / "annotations" / f"instances_{split}2017.json").read_text())
        for image in content["images"]:
            name = f"{split}_{image['file_name']}"
            (root / "images" / name).write_bytes((root / f"{split}2017" / image["file_name"]).read_bytes())
            image["file_name"] = name
        (root / f"{split}.json").write_text(json.dumps(content))
    return root


@pytest.mark.parametrize(
    "path", [pytest.param(p, id=p.stem, marks=[] if p.stem in QUICK else [pytest.mark.slow]) for p in PATHS]
)
def test_two_training_steps_and_an_evaluation(path: Path, coco: Path, tmp_path: Path) -> None:
    from glmix_cli.fit import main

    options: dict[str, Any] = {**SMALL, "data.root": coco, "trainer.default_root_dir": tmp_path / "run"}
    schedule = "warmup_epochs" if path.stem == "own" else "warmup_steps"
    options[f"model.schedule.{schedule}"] = 0
    arguments = [part for name, value in options.items() for part in (f"--{name}", str(value))]
    assert main(["fit", "--config", str(path), *arguments]) == 0
    assert (tmp_path / "run" / "checkpoints" / "step-00000002.ckpt").is_file()
    (metrics,) = (tmp_path / "run" / "logs" / "csv").rglob("metrics.csv")
    columns = metrics.read_text().splitlines()[0].split(",")
    expected = {"train/loss", "val/box_AP", "val/box_AP50", "val/best_box_AP"}
    masks = {"train/loss_mask", "train/loss_objectness", "val/mask_AP", "val/mask_AP50"}
    one_stage = {"train/loss_classification", "train/loss_bbox_regression"}
    assert expected | (one_stage if path.stem.startswith("retinanet") else masks) <= set(columns)


@pytest.mark.parametrize("kind", ["retinanet", "mask_rcnn"])
def test_training_on_scenes(kind: str, tmp_path: Path) -> None:
    from glmix_cli.fit import main

    path = ROOT.parent / "scenes" / f"detection_{kind}.yaml"
    options = {"data.train_count": 16, "data.val_count": 4, "model.schedule.warmup_steps": 0, "trainer.max_epochs": 1}
    options["trainer.default_root_dir"] = str(tmp_path / "run")
    arguments = [part for name, value in options.items() for part in (f"--{name}", str(value))]
    assert main(["fit", "--config", str(path), *arguments]) == 0
    assert (tmp_path / "run" / "checkpoints" / "step-00000002.ckpt").is_file()
