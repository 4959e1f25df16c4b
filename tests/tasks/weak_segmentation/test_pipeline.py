"""The pipeline of weakly supervised segmentation through the command line, on scenes and in the Pascal VOC layout."""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from glmix.data.scenes import SceneConfig, write_scenes
from glmix.data.segmentation.files import IGNORE
from glmix.tasks.segmentation.metrics import scores_of
from glmix.tasks.weak_segmentation.config import read_weakseg
from glmix.tasks.weak_segmentation.methods import Method
from glmix.tasks.weak_segmentation.metrics import THRESHOLDS, confusions, curve_of, explained_shares
from glmix.tasks.weak_segmentation.seeds import SeedMaps
from glmix_cli import main

ROOT = Path(__file__).parents[3]
CONFIGS = ROOT / "src" / "glmix" / "configs" / "weak_segmentation"
SMALL = {"widths": [16, 16, 32, 32], "depths": [1, 1, 1, 1], "head_dim": 16, "num_slots": 4}
SHORT = {"epochs": 1, "lr": 1e-3}


def small(name: str, folder: Path, **changes: Any) -> Path:
    """Return a shipped recipe with a small network, few images and short trainings."""
    config = yaml.safe_load((CONFIGS / f"{name}.yaml").read_text())
    config["out"] = str(folder / "out")
    config["data"] |= {"held_out": 6, "train_count": 22, "val_count": 5, "num_workers": 0}
    config["data"]["source"]["root"] = str(folder / "voc")
    config["classifier"]["model_args"] |= SMALL
    config["classifier"] |= {"recipe": SHORT, "batch_size": 8}
    config["seeds"]["views"] = 2
    config["segmenter"] |= {"recipe": SHORT, "batch_size": 8}
    config |= changes
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(config))
    return path


def run(path: Path, *steps: str, options: Sequence[str] = ()) -> list[int]:
    return [main(["weakseg", step, "--config", str(path), *options]) for step in steps]


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder in which all steps of the recipe for scenes have run."""
    folder = tmp_path_factory.mktemp("weakseg")
    assert run(small("scenes", folder), "fit", "seeds", "evaluate") == [0, 0, 0]
    return folder


def made(folder: Path, name: str) -> Any:
    return json.loads((folder / "out" / "seeds" / name / "made.json").read_text())


def test_every_training_image_has_a_pseudo_mask_with_its_labels(done: Path) -> None:
    files = sorted((done / "out" / "seeds" / "slotcut" / "SegmentationClass").iterdir())
    assert [file.name for file in files] == [f"scene_train_{k:08d}.png" for k in range(1, 23)]
    for file in files:
        with Image.open(file) as mask, Image.open(done / "voc" / "SegmentationClass" / file.name) as truth:
            assert mask.mode == "P"
            assert mask.size == truth.size
            assert mask.getpalette() == truth.getpalette()
            assert set(np.unique(np.asarray(mask))) <= set(np.unique(np.asarray(truth))) | {0}


def test_threshold_uses_masks_only_if_configured(done: Path) -> None:
    assert "without masks" in made(done, "slotcut")["chosen"]
    shares = made(done, "slotcut")["curve"]
    assert shares[THRESHOLDS.index(made(done, "slotcut")["threshold"])] == max(shares)
    options = ["--method", "cam", "--name", "cam-by-masks", "--set", "threshold", "masks"]
    assert run(done / "config.yaml", "seeds", options=options) == [0]
    chosen = made(done, "cam-by-masks")
    assert "by the masks of 6 held-out" in chosen["chosen"]
    assert chosen["curve"][THRESHOLDS.index(chosen["threshold"])] == max(chosen["curve"])


def test_result_contains_every_class_and_stage(done: Path) -> None:
    result = json.loads((done / "out" / "segmenter" / "slotcut" / "result.json").read_text())
    assert result["classes"] == ["background", *SceneConfig().class_names]
    assert (result["method"], result["threshold"]) == ("slotcut", made(done, "slotcut")["threshold"])
    assert result["chosen"] == made(done, "slotcut")["chosen"]
    for stage in ("seeds", "pseudo masks", "segmenter"):
        assert len(result[stage]["iou"]) == 7
        assert result[stage]["mean_iou"] == pytest.approx(np.nanmean(result[stage]["iou"]), abs=1e-5)
    at = THRESHOLDS.index(result["threshold"])
    assert result["seeds"]["mean_iou"] == pytest.approx(result["curve"][at], abs=1e-4)


def test_seeds_resume(done: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = done / "out" / "seeds" / "slotcut" / "SegmentationClass"
    files = sorted(folder.iterdir())
    before = {file.name: file.read_bytes() for file in files}
    files[3].unlink()
    assert run(done / "config.yaml", "evaluate") == [2]
    assert "1 of 22 pseudo masks are missing" in capsys.readouterr().err
    kept = files[4].stat().st_mtime_ns
    assert run(done / "config.yaml", "seeds") == [0]
    assert {file.name: file.read_bytes() for file in sorted(folder.iterdir())} == before
    assert files[4].stat().st_mtime_ns == kept


def test_compare_several_methods_without_training(
    done: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    shutil.copytree(done / "out", out)
    shutil.rmtree(out / "segmenter")
    options = ["--set", "out", str(out)]
    before = (out / "seeds" / "slotcut" / "SegmentationClass" / "scene_train_00000001.png").stat().st_mtime_ns
    assert run(done / "config.yaml", "seeds", options=["--method", "slots", "layercam", *options]) == [0]
    capsys.readouterr()
    assert run(done / "config.yaml", "evaluate", options=["--seeds-only", "--json", *options]) == [0]
    methods = json.loads(capsys.readouterr().out)["methods"]
    assert {"slots", "layercam", "slotcut"} <= set(methods)
    for name, found in methods.items():
        assert len(list((out / "seeds" / name / "SegmentationClass").glob("*.png"))) == 22
        assert 0 <= found["seeds"]["mean_iou"] <= 1
        assert 0 <= found["pseudo masks"]["mean_iou"] <= 1
        assert found["settings"]["method"] == ("cam" if name == "cam-by-masks" else name)
    assert methods["slots"]["pseudo masks"] != methods["layercam"]["pseudo masks"]
    assert not (out / "segmenter").exists()
    after = (out / "seeds" / "slotcut" / "SegmentationClass" / "scene_train_00000001.png").stat().st_mtime_ns
    assert after == before

    assert run(done / "config.yaml", "evaluate", options=["--seeds-only", "--method", "slots", *options]) == [0]
    table = capsys.readouterr().out
    assert f"{100 * methods['slots']['seeds']['mean_iou']:.1f}" in table
    assert "layercam" not in table


def test_segmenter_is_trained_on_the_named_method(done: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(done / "config.yaml", "seeds", options=["--method", "cam"]) == [0]
    assert run(done / "config.yaml", "evaluate", options=["--method", "cam", "--json"]) == [0]
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert result["method"] == "cam"
    assert result["checkpoint"] == str(done / "out" / "segmenter" / "cam" / "segmenter.ckpt")
    assert (done / "out" / "segmenter" / "slotcut" / "segmenter.ckpt").exists()


def test_seeds_with_other_settings_raise(done: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for change in (["seeds.views", "1"], ["threshold", "0.5"]):
        assert run(done / "config.yaml", "seeds", options=["--set", *change]) == [2]
        error = capsys.readouterr().err
        assert "seeds with other settings" in error
        assert "--name" in error


def test_stale_outputs_of_earlier_steps_raise(done: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    shutil.copytree(done / "out", out)
    config, options, path = done / "config.yaml", ["--set", "out", str(out)], out / "seeds" / "slotcut" / "made.json"
    assert run(config, "evaluate", options=options) == [0], "a copy of the folder can be resumed"
    chosen = json.loads(path.read_text())

    path.write_text(json.dumps({**chosen, "threshold": 0.9}))
    assert run(config, "evaluate", options=options) == [2]
    assert "segmenter.ckpt was trained with other pseudo masks or settings" in capsys.readouterr().err
    path.write_text(json.dumps({**chosen, "classifier": 0}))
    for step in ("seeds", "evaluate"):
        assert run(config, step, options=options) == [2]
        assert "made.json was computed with another classifier" in capsys.readouterr().err
    path.unlink()
    for step, words in (("seeds", "settings of the masks"), ("evaluate", "no seeds named slotcut")):
        assert run(config, step, options=options) == [2]
        assert words in capsys.readouterr().err


def test_voc_recipe_runs_on_voc_layout(tmp_path: Path) -> None:
    """Use images of two sizes, separate training and validation lists, and a custom mask folder."""
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
    assert run(path, "fit", "seeds", "evaluate", options=["--set", "threshold", "masks"]) == [0, 0, 0]
    result = json.loads((tmp_path / "out" / "segmenter" / "slotcut" / "result.json").read_text())
    assert len(result["segmenter"]["iou"]) == 7
    with Image.open(tmp_path / "out" / "seeds" / "slotcut" / "SegmentationClass" / "scene_train_00000002.png") as mask:
        assert mask.size == (48, 40)


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.yaml")), ids=lambda path: path.stem)
def test_shipped_recipes_are_valid_and_have_headers(path: Path) -> None:
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
        (["--set", "data.source.zero_is_class", "false"], "zero_is_class must be true"),
        (["--set", "data.held_out", "0"], "held_out must be at least 1"),
        (["--method", "cam"], "--method is for the steps seeds and evaluate"),
        (["--name", "cam"], "--name is for the step seeds"),
        (["--seeds-only"], "--seeds-only is for the step evaluate"),
    ],
)
def test_invalid_configuration_or_option_is_reported(
    changes: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["weakseg", "fit", "--config", str(CONFIGS / "scenes.yaml"), *changes]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert "Traceback" not in error


@pytest.mark.parametrize(("step", "message"), [("seeds", "no classifier in"), ("evaluate", "no classifier in")])
def test_missing_earlier_step_is_reported(
    step: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(small("scenes", tmp_path), step) == [2]
    assert message in capsys.readouterr().err


def test_unknown_methods_and_seeds_are_reported_with_the_existing_ones(
    done: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for options, words in (
        (["--method", "magic"], "slotcut"),
        (["--method", "cam", "slots", "--name", "both"], "one method"),
        (["--name", "../away"], "'../away'"),
    ):
        assert run(done / "config.yaml", "seeds", options=options) == [2]
        assert words in capsys.readouterr().err
    assert run(done / "config.yaml", "evaluate", options=["--method", "dense"]) == [2]
    assert "existing seeds: " in capsys.readouterr().err
    assert run(done / "config.yaml", "evaluate", options=["--method", "slots", "cam"]) == [2]
    assert "one name without --seeds-only" in capsys.readouterr().err


def test_help_contains_examples_of_every_step(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["weakseg", "--help"])
    assert ended.value.code == 0
    shown = capsys.readouterr().out
    for example in ("glmix weakseg fit", "--method cam layercam slotcut", "--seeds-only", "data.images.labels"):
        assert example in shown
    for name in get_args(Method):
        assert name in shown


def test_explained_shares_peak_at_the_threshold_that_separates_features() -> None:
    score = torch.linspace(0, 1, 16).expand(1, 16, 16)  # a ramp; the object is the right quarter
    features = torch.randn(1, 5, 8, 8) * 0.1
    features[..., 6:] += torch.randn(1, 5, 1, 1)
    shares = explained_shares(score, features)
    assert shares.shape == (1, len(THRESHOLDS))
    assert 11 / 15 < THRESHOLDS[int(shares.argmax())] <= 12 / 15
    fine = (
        features.repeat_interleave(2, 2).repeat_interleave(2, 3).flatten(2)[0].double()
    )  # explicit computation at the optimum
    inside = (score > 0.75).flatten()
    within = sum(part.shape[1] * part.var(1, correction=0).sum() for part in (fine[:, inside], fine[:, ~inside]))
    by_hand = 1 - within / (fine.shape[1] * fine.var(1, correction=0).sum())
    assert float(shares.max()) == pytest.approx(float(by_hand), abs=1e-4)
    assert (explained_shares(torch.full((1, 4, 4), 0.5), features) == 0).all(), "all or nothing is foreground"


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10**6), st.booleans())
def test_confusions_match_masks_at_each_threshold(seed: int, with_ignore: bool) -> None:
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


def test_curve_sums_batches_and_returns_best_threshold() -> None:
    truth = torch.zeros(1, 4, 4, dtype=torch.int64)
    truth[:, :2] = 1
    maps = SeedMaps(torch.where(truth == 1, 0.81, 0.39)[:, None].float())
    curve = curve_of([(maps, truth), (maps, truth)], 2)
    assert int(curve.counts[0].sum()) == 32
    assert 0.39 < curve.best <= 0.81
    assert float(curve.at(curve.best).mean_iou) == 1
    assert float(curve.at(0.9).mean_iou) == pytest.approx(float(scores_of(torch.tensor([[16, 0], [16, 0]])).mean_iou))
