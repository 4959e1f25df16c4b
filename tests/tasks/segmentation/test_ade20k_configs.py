"""Every segmentation recipe has the published hyperparameters, trains and evaluates on small data."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from glmix.data.scenes import SceneConfig, draw_scene, write_scenes
from glmix.tasks import read_info

CONFIGS = Path(__file__).parents[3] / "src" / "glmix" / "configs" / "segmentation"
ADE20K = sorted((CONFIGS / "ade20k").glob("*.yaml"))
DROP_PATH = {"semantic_fpn": {"stl": 0.15, "4g": 0.15, "9g": 0.3}, "upernet": {"stl": 0.3, "4g": 0.3, "9g": 0.4}}
SCENES = SceneConfig(size=64)
SMALL = {"widths": "[16,16,32,32]", "depths": "[1,1,1,1]", "head_dim": "16", "num_slots": "4"}
SMALL_DECODER = {
    "fpn": {"decoder_pyramid_channels": 32, "decoder_segmentation_channels": 32},
    "upernet": {"decoder_channels": 16},
}


def test_there_is_a_recipe_for_each_decoder_and_size() -> None:
    names = [f"{decoder}_glnet_{size}" for decoder, sizes in DROP_PATH.items() for size in sizes]
    assert sorted(path.stem for path in ADE20K) == sorted(names)


@pytest.mark.parametrize("path", ADE20K, ids=lambda path: path.stem)
def test_published_numbers(path: Path) -> None:
    config = yaml.safe_load(path.read_text())
    decoder, size = path.stem.split("_glnet_")
    model, data, trainer = config["model"]["init_args"], config["data"]["init_args"], config["trainer"]
    assert model["model"] == f"glnet_{size}"
    assert model["model_args"] == {"drop_path_rate": DROP_PATH[decoder][size]}
    if decoder == "semantic_fpn":
        assert model["decoder"] == "fpn"
        assert model["optimizer"] == {"name": "adamw", "lr": 2e-4, "base_batch": 32, "weight_decay": 1e-4}
        assert model["schedule"] == {"kind": "cosine", "warmup_steps": 1000, "min_lr": 0}
        assert trainer["max_steps"] == 80_000
        assert data["batch_size"] == 4, "on eight devices"
    else:
        assert model["decoder"] == "upernet"
        assert model["auxiliary"] == 0.4
        assert model["optimizer"] == {"name": "adamw", "lr": 6e-5, "base_batch": 16, "weight_decay": 0.01}
        assert model["schedule"] == {"kind": "poly", "power": 1, "warmup_steps": 1500, "min_lr": 0}
        assert trainer["max_steps"] == 160_000
        assert data["batch_size"] == 2, "on eight devices"
    assert data["transforms"] == {
        "resize": [2048, 512],
        "scale": [0.5, 2.0],
        "crop": 512,
        "category_max_ratio": 0.75,
        "hflip": 0.5,
        "photometric": 0.5,
    }
    assert trainer["sync_batchnorm"] is True
    assert trainer["max_steps"] % trainer["val_check_interval"] == 0, "the last step is validated"


def write_custom_data(root: Path) -> None:
    """Write custom data: images of several sizes, ids from 0 and some ignored pixels."""
    for split, count in (("train", 4), ("val", 2)):
        for kind in ("images", "masks"):
            (root / kind / split).mkdir(parents=True)
        for index in range(count):
            scene = draw_scene(SCENES, split, index)  # type: ignore[arg-type]
            size = (64 + 7 * index, 60 + 5 * index)
            mask = scene.semantic.copy()
            mask[:3] = 255
            Image.fromarray(scene.image).resize(size).save(root / "images" / split / f"{index}.jpg")
            Image.fromarray(mask).resize(size, Image.Resampling.NEAREST).save(root / "masks" / split / f"{index}.png")
    (root / "classes.txt").write_text("\n".join(["background", *SCENES.class_names]))


def arguments(path: Path, root: Path, run: Path) -> list[str]:
    config: dict[str, Any] = yaml.safe_load(path.read_text())
    decoder = config["model"]["init_args"]["decoder"]
    options: dict[str, Any] = {
        "trainer.default_root_dir": run,
        "trainer.accelerator": "cpu",
        "trainer.max_steps": 2,
        "trainer.max_epochs": -1,
        "data.source.root": root,
        "data.transforms.crop": 64,
        "data.transforms.resize": "[128,64]",
        "data.batch_size": 2,
        "data.num_workers": 0,
        **{f"model.model_args.{name}": value for name, value in SMALL.items()},
        **{f"model.decoder_args.{name}": value for name, value in SMALL_DECODER[decoder].items()},
    }
    if "warmup_steps" in config["model"]["init_args"]["schedule"]:
        options |= {"model.schedule.warmup_steps": 0, "trainer.val_check_interval": 2}
    else:
        options["model.schedule.warmup_epochs"] = 0
    return ["fit", "--config", str(path), *(part for k, v in options.items() for part in (f"--{k}", str(v)))]


@pytest.mark.parametrize(
    "path",
    [
        pytest.param(p, id=p.stem, marks=[] if p.stem.endswith(("4g", "masks")) else [pytest.mark.slow])
        for p in [*ADE20K, CONFIGS / "finetune" / "masks.yaml"]
    ],
)
def test_two_steps_and_an_evaluation(path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from glmix_cli.fit import main

    if path.stem == "masks":
        write_custom_data(tmp_path / "data")
    else:
        write_scenes(tmp_path / "data", "segmentation", SCENES, {"train": 6, "val": 2})
    options = arguments(path, tmp_path / "data", tmp_path / "run")
    assert main(options) == 0
    checkpoint = tmp_path / "run" / "checkpoints" / "step-00000002.ckpt"
    assert checkpoint.is_file()
    assert (tmp_path / "run" / "checkpoints" / "best.ckpt").is_file(), "validation ran"
    info = read_info(checkpoint)
    assert info["task"] == "Segmentation"
    names = [*(["background"] if path.stem == "masks" else []), *SCENES.class_names]
    assert info["class_names"] == names
    assert tuple(info["resize"]) == (128, 64)
    log = next((tmp_path / "run" / "logs" / "csv").rglob("metrics.csv")).read_text().splitlines()
    assert {f"val/IoU/{name}" for name in names} | {"val/mIoU", "val/pixel_accuracy", "val/loss"} <= set(
        log[0].split(",")
    )
    capsys.readouterr()
    assert main(["validate", *options[1:]]) == 0
    assert "val/mIoU" in capsys.readouterr().out
    state = torch.load(checkpoint, weights_only=True)["state_dict"]
    assert all(np.isfinite(tensor.float().numpy()).all() for tensor in state.values())
