"""Weak segmentation through the real command, on scenes and on the layout of Pascal VOC, and what it measures with."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from glmix.data.masks.files import IGNORE
from glmix.data.scenes import SceneConfig, write_scenes
from glmix.slots.weak.seeds import SeedMaps
from glmix.tasks.segmentation.scores import scores_of
from glmix.tasks.weakseg.config import read_weakseg
from glmix.tasks.weakseg.scores import THRESHOLDS, confusions, curve_of
from glmix_cli import main

ROOT = Path(__file__).parents[2]
CONFIGS = ROOT / "src" / "glmix" / "configs" / "weakseg"
SMALL = {"widths": [16, 16, 32, 32], "depths": [1, 1, 1, 1], "head_dim": 16, "num_slots": 4}
SHORT = {"epochs": 1, "lr": 1e-3}


def small(name: str, folder: Path, **changes: Any) -> Path:
    """A shipped recipe, with a small network, few images and short trainings."""
    config = yaml.safe_load((CONFIGS / f"{name}.yaml").read_text())
    config["out"] = str(folder / "out")
    config["data"] |= {"held_out": 6, "train_count": 22, "val_count": 5, "num_workers": 0}
    config["data"]["source"]["root"] = str(folder / "voc")
    config["classifier"]["model_args"] |= SMALL
    config["classifier"] |= {"recipe": SHORT, "batch_size": 8}
    config["segmenter"] |= {"recipe": SHORT, "batch_size": 8}
    config |= changes
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(config))
    return path


def run(path: Path, *steps: str) -> list[int]:
    return [main(["weakseg", step, "--config", str(path), "--json"]) for step in steps]


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which the recipe for scenes has been carried out."""
    folder = tmp_path_factory.mktemp("weakseg")
    assert run(small("scenes", folder), "fit", "seeds", "evaluate") == [0, 0, 0]
    return folder


def test_every_training_image_has_a_pseudo_mask_of_its_labels_in_vocs_form(done: Path) -> None:
    files = sorted((done / "out" / "pseudo" / "SegmentationClass").iterdir())
    assert [file.name for file in files] == [f"scene_train_{k:08d}.png" for k in range(1, 23)]
    for file in files:
        with Image.open(file) as mask, Image.open(done / "voc" / "SegmentationClass" / file.name) as truth:
            assert mask.mode == "P"
            assert mask.size == truth.size
            assert mask.getpalette() == truth.getpalette()
            assert set(np.unique(np.asarray(mask))) <= set(np.unique(np.asarray(truth))) | {0}


def test_the_threshold_is_the_best_on_the_held_out_images_alone(done: Path) -> None:
    chosen = json.loads((done / "out" / "seeds.json").read_text())
    assert chosen["threshold"] == THRESHOLDS[int(np.argmax(chosen["held_out"]))]
    result = json.loads((done / "out" / "result.json").read_text())
    assert result["threshold"] == chosen["threshold"]
    assert result["seeds"]["mean_iou"] == pytest.approx(
        result["curve"][THRESHOLDS.index(chosen["threshold"])], abs=1e-4
    )


def test_the_result_tells_every_class_of_every_stage(done: Path) -> None:
    result = json.loads((done / "out" / "result.json").read_text())
    assert result["classes"] == ["background", *SceneConfig().class_names]
    for stage in ("seeds", "pseudo masks", "segmenter"):
        assert len(result[stage]["iou"]) == 7
        assert result[stage]["mean_iou"] == pytest.approx(np.nanmean(result[stage]["iou"]), abs=1e-5)


def test_seeds_continue_where_they_stopped(done: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = done / "out" / "pseudo" / "SegmentationClass"
    files = sorted(folder.iterdir())
    before = {file.name: file.read_bytes() for file in files}
    files[3].unlink()
    kept = files[4].stat().st_mtime_ns
    assert run(done / "config.yaml", "seeds") == [0]
    assert {file.name: file.read_bytes() for file in sorted(folder.iterdir())} == before
    assert files[4].stat().st_mtime_ns == kept


def test_seeds_of_other_settings_are_not_mixed(done: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code = main(["weakseg", "seeds", "--config", str(done / "config.yaml"), "--set", "seeds.method", "cam"])
    assert code == 2
    assert "is from other settings of seeds" in capsys.readouterr().err


def test_nothing_is_made_of_what_another_step_has_replaced(
    done: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    shutil.copytree(done / "out", out)
    options = ["--config", str(done / "config.yaml"), "--set", "out", str(out)]
    assert main(["weakseg", "evaluate", *options]) == 0, "a copy goes on"
    chosen = json.loads((out / "seeds.json").read_text())

    (out / "seeds.json").write_text(json.dumps({**chosen, "threshold": 0.9}))
    assert main(["weakseg", "evaluate", *options]) == 2
    assert "model.safetensors is from other pseudo masks or other settings" in capsys.readouterr().err
    (out / "seeds.json").write_text(json.dumps({**chosen, "classifier": 0}))
    assert main(["weakseg", "seeds", *options]) == 2
    assert "seeds.json is from another classifier" in capsys.readouterr().err
    (out / "seeds.json").unlink()
    for step, words in (("seeds", "Nothing says how the masks in"), ("evaluate", "There is no")):
        assert main(["weakseg", step, *options]) == 2
        assert words in capsys.readouterr().err


def test_the_recipe_for_voc_runs_on_vocs_layout(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Images of two sizes, one list for training and one for validation, masks in a folder of their own."""
    root = tmp_path / "voc"
    write_scenes(root, "voc", SceneConfig(size=48, objects=(1, 2)), {"train": 16, "val": 3})
    (root / "classes.txt").write_text("\n".join(["background", *SceneConfig().class_names]) + "\n")
    lists = root / "ImageSets" / "Segmentation"
    (lists / "train.txt").rename(lists / "trainaug.txt")
    (root / "SegmentationClass").rename(root / "SegmentationClassAug")
    (root / "SegmentationClass").mkdir()
    for part in ("JPEGImages/scene_train_00000002.jpg", "SegmentationClassAug/scene_train_00000002.png"):
        with Image.open(root / part) as image:
            image.crop((0, 0, 48, 40)).save(root / part)
    config = yaml.safe_load((CONFIGS / "voc.yaml").read_text())
    transforms = {**config["data"]["transforms"], "resize": [84, 64], "crop": 64}
    config["data"]["source"]["root"] = str(root)
    config["data"] |= {"held_out": 4, "num_workers": 0, "transforms": transforms}
    config["out"] = str(tmp_path / "out")
    config["classifier"]["model_args"] |= SMALL
    config["classifier"] |= {"recipe": SHORT, "batch_size": 4}
    config["segmenter"] |= {"recipe": SHORT, "batch_size": 4, "decoder": "fpn"}
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(config))
    assert run(path, "fit", "seeds", "evaluate") == [0, 0, 0]
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert len(result["segmenter"]["iou"]) == 7
    with Image.open(tmp_path / "out" / "pseudo" / "SegmentationClass" / "scene_train_00000002.png") as mask:
        assert mask.size == (48, 40)


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.yaml")), ids=lambda path: path.stem)
def test_shipped_recipes_are_read_and_tell_command_cost_and_result(path: Path) -> None:
    assert read_weakseg(path, []).out.startswith("out/weakseg/")
    text = path.read_text()
    for word in ("# Command:   ", "# Data:      ", "# Cost:      ", "# Expected:  "):
        assert word in text


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["--set", "seeds.metod", "cam"], "no key 'seeds.metod'"),
        (["--set", "seeds.method", "magic"], "seeds.method"),
        (["--set", "threshold", "0.555"], "threshold must be a multiple of 0.02"),
        (["--set", "data.source.layout", "ade20k"], "layout must be 'voc'"),
        (["--set", "data.held_out", "0"], "held_out must be at least 1"),
    ],
)
def test_what_means_nothing_is_refused_in_a_sentence(
    changes: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["weakseg", "fit", "--config", str(CONFIGS / "scenes.yaml"), *changes]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert "Traceback" not in error


@pytest.mark.parametrize(("step", "message"), [("seeds", "no classifier in"), ("evaluate", "no classifier in")])
def test_a_step_too_early_says_which_comes_first(
    step: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(small("scenes", tmp_path), step) == [2]
    assert message in capsys.readouterr().err


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10**6), st.booleans())
def test_the_curve_counts_what_masks_at_each_threshold_would(seed: int, with_ignore: bool) -> None:
    generator = torch.Generator().manual_seed(seed)
    maps = SeedMaps(torch.rand(2, 3, 4, 5, generator=generator), torch.rand(2, 4, 5, generator=generator))
    truth = torch.randint(4, (2, 4, 5), generator=generator)
    if with_ignore:
        truth[0, 0] = IGNORE
    counts = confusions(maps.score, maps.classes.argmax(1) + 1, truth, 4)
    for k in (0, 24, 37, 48):
        masks = maps.masks(THRESHOLDS[k])
        known = truth != IGNORE
        by_hand = torch.bincount(truth[known] * 4 + masks[known], minlength=16).view(4, 4)
        assert torch.equal(counts[k], by_hand)


def test_a_curve_adds_batches_and_tells_its_best_threshold() -> None:
    truth = torch.zeros(1, 4, 4, dtype=torch.int64)
    truth[:, :2] = 1
    maps = SeedMaps(torch.where(truth == 1, 0.81, 0.39)[:, None].float())
    curve = curve_of([(maps, truth), (maps, truth)], 2)
    assert int(curve.counts[0].sum()) == 32
    assert 0.39 < curve.best <= 0.81
    assert float(curve.at(curve.best).mean_iou) == 1
    assert float(curve.at(0.9).mean_iou) == pytest.approx(float(scores_of(torch.tensor([[16, 0], [16, 0]])).mean_iou))
