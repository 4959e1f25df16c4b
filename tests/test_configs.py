"""Headers of all recipes; hyperparameters and short trainings of the classification recipes.

`tasks/segmentation/test_ade20k_configs.py` and `tasks/detection/test_coco_configs.py` test the other recipes.
"""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
import yaml
from PIL import Image

from glmix.models import PUBLISHED_TOP1, save_model

ROOT = Path(__file__).parent.parent / "src" / "glmix" / "configs"
RECIPES = sorted(path for path in ROOT.rglob("*.yaml"))
OF_CLASSIFICATION = [
    path
    for path in RECIPES
    if yaml.safe_load(path.read_text())["data"].get("class_path") in ("ImageData", "ScenesData")
]
QUICK = {"glnet_4g", "glnet_4g_tklb", "folder", "single"}
DROP_PATH = {"glnet_4g": 0.15, "glnet_9g": 0.3, "glnet_16g": 0.4}
SMALL = {"widths": "[16,16,32,32]", "depths": "[1,1,1,1]", "head_dim": "16", "num_slots": "4"}


@pytest.mark.parametrize("name", PUBLISHED_TOP1)
def test_imagenet_recipes_have_the_published_hyperparameters(name: str) -> None:
    config = yaml.safe_load((next(ROOT.glob(f"*/imagenet/{name}.yaml"))).read_text())
    labelled = name.endswith("_tklb")
    model, data = config["model"]["init_args"], config["data"]["init_args"]
    assert model["model"] == name
    assert model["model_args"] == {"drop_path_rate": DROP_PATH.get(name, 0.1)}
    assert model["optimizer"] == {"name": "adamw", "lr": 2e-3, "base_batch": 2048, "weight_decay": 0.05}
    assert model["schedule"] == {"warmup_epochs": 5, "min_lr": 1e-5}
    assert model["ema_decay"] == 0.9999
    assert config["trainer"]["max_epochs"] == (310 if labelled else 300)
    assert config["trainer"]["gradient_clip_val"] == 5.0
    assert data["repeats"] == 3
    augment = {"auto_augment": "rand-m9-mstd0.5-inc1", "color_jitter": 0.4, "erasing": 0.25}
    assert data["transforms"] == {"size": 224, "interpolation": "bicubic", **augment}
    if labelled:
        assert config["model"]["class_path"] == "TokenLabelling"
        assert model["dense_weight"] == 0.5
        assert data["token_labels"]["grid"] == 7
    else:
        assert model["mix"] == {"mixup": 0.8, "cutmix": 1.0}
        assert model["smoothing"] == 0.1


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_header_has_command_data_cost_and_result(path: Path) -> None:
    header = [line for line in path.read_text().splitlines() if line.startswith("#")]
    for word in ("# Command:   ", "# Data:      ", "# Cost:      ", "# Expected:  "):
        assert any(line.startswith(word) for line in header), word
    assert path.relative_to(ROOT).with_suffix("").as_posix() in "\n".join(header)
    if path.parent.name == "imagenet":
        assert f"{PUBLISHED_TOP1[path.stem]} %" in "\n".join(header)


def write_images(root: Path, labels: Path) -> None:
    """Write two classes with two training images and one validation image each, and token label maps."""
    random = np.random.default_rng(0)
    for split, count in (("train", 2), ("val", 1)):
        for name in ("a", "b"):
            folder = root / split / name
            folder.mkdir(parents=True)
            (labels / name).mkdir(parents=True, exist_ok=True)
            for index in range(count):
                Image.fromarray(random.integers(0, 256, (80, 90, 3), dtype=np.uint8)).save(folder / f"{index}.png")
                scores, classes = torch.rand(5, 18, 18), torch.randint(0, 2, (5, 18, 18))
                torch.save(torch.stack([scores, classes.float()]).half(), labels / name / f"{index}.pt")


def arguments(path: Path, tmp_path: Path) -> list[str]:
    """Return the arguments that train two batches of a recipe with a small model on generated data."""
    config: dict[str, Any] = yaml.safe_load(path.read_text())
    options: dict[str, Any] = {
        "trainer.default_root_dir": tmp_path / "run",
        "trainer.accelerator": "cpu",
        "trainer.max_epochs": 1,
        "trainer.limit_train_batches": 2,
        "trainer.limit_val_batches": 1,
        "model.schedule.warmup_epochs": 0,
        "data.batch_size": 2,
        "data.num_workers": 0,
    }
    options |= {f"model.model_args.{name}": value for name, value in SMALL.items()}
    if config["data"]["class_path"] == "ImageData":
        write_images(tmp_path / "images", tmp_path / "labels")
        options |= {"data.transforms.size": 64}
        if config["data"]["init_args"]["source"].get("reader") == "list":
            files = sorted((tmp_path / "images" / "train").rglob("*.png"))
            rows = ["path,label", *(f"{file},{file.parent.name}" for file in files)]
            (tmp_path / "list.csv").write_text("\n".join(rows))
            options |= {"data.source.list.file": tmp_path / "list.csv", "trainer.limit_train_batches": 1}
        else:
            options["data.source.root"] = tmp_path / "images"
        if path.stem == "distillation":
            save_model(timm.create_model("test_glnet", num_classes=2), tmp_path / "teacher")
            options["model.teacher.checkpoint"] = tmp_path / "teacher"
        elif "data.source.root" in options:
            options["data.source.num_classes"] = 2
        if "repeats" in config["data"]["init_args"]:
            options["data.repeats"] = 1
        if "token_labels" in config["data"]["init_args"]:
            options |= {"data.token_labels.root": tmp_path / "labels", "data.token_labels.grid": 2}
    else:
        size = 64 if "token_label" in path.stem else 32
        options |= {"data.scenes.size": size, "data.train_count": 8, "data.val_count": 4}
        if "token_label" in path.stem:
            options["data.token_grid"] = 2
    return ["fit", "--config", str(path), *(part for k, v in options.items() for part in (f"--{k}", str(v)))]


@pytest.mark.parametrize(
    "path",
    [pytest.param(p, id=p.stem, marks=[] if p.stem in QUICK else [pytest.mark.slow]) for p in OF_CLASSIFICATION],
)
def test_trains_two_batches(path: Path, tmp_path: Path) -> None:
    from glmix_cli.fit import main

    assert main(arguments(path, tmp_path)) == 0
    assert list((tmp_path / "run" / "checkpoints").glob("step-0000000[12].ckpt"))
    assert list((tmp_path / "run" / "logs" / "csv").rglob("metrics.csv"))
    assert list((tmp_path / "run" / "logs" / "tensorboard").rglob("events.*"))
