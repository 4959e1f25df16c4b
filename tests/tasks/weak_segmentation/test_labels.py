"""Weakly supervised segmentation of images with image labels only, through the command line and real files."""

import dataclasses
import json
import shutil
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
import yaml
from PIL import Image

from glmix.data.scenes import SceneConfig, write_scenes
from glmix.data.segmentation.datamodule import MaskSource
from glmix.errors import InputError
from glmix.tasks.weak_segmentation.config import DataConfig
from glmix.tasks.weak_segmentation.labels import LabelSource, read_labels
from glmix_cli import main
from tests.processes import Command

ROOT = Path(__file__).parents[3]
SCENES = SceneConfig(size=48, objects=(1, 1), shapes=("disc", "ring"), textures=("stripes",))
SMALL = {"widths": [16, 16, 32, 32], "depths": [1, 1, 1, 1], "head_dim": 16, "num_slots": 4, "output_stride": 8}
SHORT = {"epochs": 1, "lr": 1e-3}


def recipe(folder: Path, **data: Any) -> Path:
    """Return the shipped recipe for photographs with a tiny network and short trainings."""
    config = yaml.safe_load((ROOT / "src" / "glmix" / "configs" / "weak_segmentation" / "photos.yaml").read_text())
    transforms = {"resize": None, "scale": [1.0, 1.0], "crop": 48, "photometric": 0.0}
    config["out"] = str(folder / "out")
    config["data"] |= {"held_out": 6, "num_workers": 0, "transforms": transforms, **data}
    config["classifier"] = {"model": "test_glnet", "model_args": SMALL, "recipe": SHORT, "batch_size": 8}
    config["seeds"] |= {"method": "cam", "dilations": [1, 2]}
    config["segmenter"] |= {"recipe": SHORT, "batch_size": 8}
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(config))
    return path


def run(path: Path, step: str, *options: str) -> int:
    return main(["weakseg", step, "--config", str(path), *options])


def test_folder_per_class_without_masks_gives_pseudo_masks_and_segmenter(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_scenes(tmp_path / "scenes", "imagefolder", SCENES, {"train": 20, "val": 4})
    photos = tmp_path / "scenes" / "train"
    config = recipe(tmp_path, images={"folder": str(photos)})
    assert run(config, "fit") == 0
    assert run(config, "seeds") == 0
    assert "without masks" in capsys.readouterr().err
    images = sorted(photos.rglob("*.png"))
    masks = tmp_path / "out" / "seeds" / "cam" / "SegmentationClass"
    assert sorted(masks.rglob("*.png")) == [masks / path.relative_to(photos) for path in images]
    classes = sorted(path.name for path in photos.iterdir())
    for path in images:
        with Image.open(masks / path.relative_to(photos)) as mask:
            assert set(np.unique(np.asarray(mask))) <= {0, 1 + classes.index(path.parent.name)}

    assert run(config, "evaluate", "--seeds-only") == 0
    table = capsys.readouterr().out
    assert "no ground truth" in table
    assert "without masks" in table
    assert run(config, "evaluate") == 0
    shown = capsys.readouterr().out
    assert "no ground truth" in shown
    assert "IoU" not in shown
    assert run(config, "evaluate", "--json") == 0
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert result["classes"] == ["background", *classes]
    assert 0 < result["foreground"] < 1
    for stage in ("seeds", "pseudo masks", "segmenter"):
        assert result[stage] is None, "no mask, no number"

    options = ["--checkpoint", result["checkpoint"], "-o", str(tmp_path / "segmented")]
    assert main(["segment", str(images[0]), *options]) == 0
    assert (tmp_path / "segmented" / "segments.json").is_file()


@pytest.fixture
def voc(tmp_path: Path) -> Path:
    """Return scenes with masks for validation only, and a CSV file with image labels of the training scenes."""
    root = tmp_path / "voc"
    write_scenes(root, "voc", SceneConfig(size=48, objects=(1, 2)), {"train": 20, "val": 4})
    rows = []
    for path in sorted((root / "Annotations").glob("scene_train_*.xml")):
        names = {item.text for item in ElementTree.parse(path).findall("object/name")}
        rows.append(f"{path.stem}.jpg,{';'.join(sorted(name for name in names if name))}\n")
        (root / "SegmentationClass" / f"{path.stem}.png").unlink()
    shutil.rmtree(root / "Annotations")
    (tmp_path / "labels.csv").write_text("file,labels\n" + "".join(rows))
    return root


def test_labels_file_is_used_and_masks_are_evaluated_where_available(
    voc: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images = {"folder": str(voc / "JPEGImages"), "labels": str(tmp_path / "labels.csv")}
    config = recipe(tmp_path, images=images, source={"root": str(voc), "layout": "voc"})
    assert run(config, "fit") == 0
    assert run(config, "seeds", "--method", "cam", "slotcut") == 0
    assert len(list((tmp_path / "out" / "seeds" / "slotcut" / "SegmentationClass").iterdir())) == 20
    capsys.readouterr()
    assert run(config, "evaluate", "--seeds-only", "--json") == 0
    result = json.loads(capsys.readouterr().out)
    assert result["classes"] == ["background", *SceneConfig().class_names], "the order of the masks' classes"
    for found in result["methods"].values():
        assert 0 <= found["seeds"]["mean_iou"] <= 1, "the validation images have masks"
        assert found["pseudo masks"] is None, "the training images have none"

    assert run(config, "seeds", "--name", "second", "--set", "threshold", "masks") == 2
    assert "needs masks of the training images" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("labels.csv", "file,labels\r\na.png,dog; cat\r\nmore/b.png,cat\r\nc.png,\r\n"),
        ("labels.json", '{"a.png": ["dog", "cat"], "more/b.png": ["cat"], "c.png": []}'),
        (
            "labels.jsonl",
            '{"file": "a.png", "labels": ["dog", "cat"]}\n{"file": "more/b.png", "labels": ["cat"]}\n\n'
            '{"file": "c.png", "labels": []}\n',
        ),
    ],
)
def test_read_labels_from_csv_json_and_json_lines(name: str, text: str, tmp_path: Path) -> None:
    (tmp_path / "more").mkdir()
    for file in ("a.png", "more/b.png", "c.png", "not-listed.png"):
        Image.new("RGB", (4, 3)).save(tmp_path / file)
    (tmp_path / name).write_text(text)
    files = LabelSource(str(tmp_path), str(tmp_path / name)).open()
    assert files.class_names == ("background", "cat", "dog")
    shown = {file: files.labels(index) for index, file in enumerate(files.names)}
    assert shown == {"a": {1, 2}, "more/b": {1}, "c": set()}
    assert files.image(files.names.index("a")).size == (4, 3)
    ordered = LabelSource(str(tmp_path), str(tmp_path / name), classes=("dog", "cat", "bird")).open()
    assert ordered.labels(ordered.names.index("more/b")) == {2}


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("labels.txt", "a.png cat", [".json, .csv", ".jsonl"]),
        ("labels.csv", "", ["no rows"]),
        ("labels.csv", "file,labels\n", ["no rows"]),
        ("labels.json", "{}", ["lists no image"]),
        ("labels.csv", "image,labels\na.png,cat\n", ["image, labels", "file and labels"]),
        ("labels.csv", "file,labels\na.png,cat,dog\n", ["line 2", "3 fields"]),
        ("labels.csv", "file,labels\na.png,cat\na.png,dog\n", ["line 3", "a.png is listed twice"]),
        ("labels.csv", "file,labels\n../a.png,cat\n", ["line 2", "below the folder"]),
        ("labels.json", '{"a.png": "cat"}', ["a.png", "list of class names"]),
        ("labels.json", '["a.png"]', ["contains a list"]),
        ("labels.json", "{", ["not valid JSON"]),
        (
            "labels.jsonl",
            '{"file": "a.png", "labels": ["cat"]}\n{"file": "b.png"}\n',
            ["line 2", "labels of b.png are None"],
        ),
    ],
)
def test_malformed_labels_raise_with_file_and_line(name: str, text: str, words: Sequence[str], tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_text(text)
    with pytest.raises(InputError) as raised:
        read_labels(path)
    for word in (str(path), *words):
        assert word in str(raised.value)


@pytest.mark.parametrize(
    ("labels", "options", "words"),
    [
        ({"a.png": ["cat"], "b.png": ["cat"], "c.png": []}, {}, "lists b.png and 1 more files, missing"),
        ({"a.png": ["background"]}, {}, "a class named 'background'"),
        ({"a.png": ["cat"]}, {"classes": ("dog",)}, "has the class 'cat'; the classes are dog"),
        ({"a.png": []}, {}, "has 0 classes"),
        ({"a.png": ["cat"], "a.jpg": ["cat"]}, {}, "would have the same mask"),
    ],
)
def test_labels_inconsistent_with_images_raise(
    labels: dict[str, list[str]], options: dict[str, Any], words: str, tmp_path: Path
) -> None:
    for file in ("a.png", "a.jpg"):
        Image.new("RGB", (4, 3)).save(tmp_path / file)
    (tmp_path / "labels.json").write_text(json.dumps(labels))
    with pytest.raises((InputError, FileNotFoundError), match=words):
        LabelSource(str(tmp_path), str(tmp_path / "labels.json"), **options).open()


def test_class_order_follows_validation_masks(tmp_path: Path) -> None:
    for name in ("photos/cat/1.png", "photos/dog/2.png", "checked/images/val/3.png", "checked/masks/val/3.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (4, 3)).save(tmp_path / name)
    photos = LabelSource(str(tmp_path / "photos"))
    checked = MaskSource(str(tmp_path / "checked"), "folder", classes=("background", "dog", "cat"))
    both = DataConfig(images=photos, source=checked).train()
    assert {name: both.labels(index) for index, name in enumerate(both.names)} == {"cat/1": {2}, "dog/2": {1}}
    assert both.class_names == checked.open("val").class_names
    alone = DataConfig(images=photos)
    assert alone.train().class_names == ("background", "cat", "dog")
    assert alone.val() is None
    assert alone.train_masks() is None
    with pytest.raises(InputError, match="both must be the same"):
        DataConfig(images=dataclasses.replace(photos, classes=("cat", "dog")), source=checked).train()
    with pytest.raises(InputError, match="neither images"):
        DataConfig()


def test_held_out_images_cover_all_classes(tmp_path: Path) -> None:
    for name in ("cat", "dog", "emu"):
        (tmp_path / name).mkdir()
        for k in range(30):
            Image.new("RGB", (4, 3)).save(tmp_path / name / f"{k}.png")
    files = LabelSource(str(tmp_path)).open()
    assert {label for index in range(70, 90) for label in files.labels(index)} == {1, 2, 3}
    assert LabelSource(str(tmp_path)).open().names == files.names


def test_interrupted_step_prints_one_line_and_leaves_no_partial_file(tmp_path: Path) -> None:
    write_scenes(tmp_path / "scenes", "imagefolder", SCENES, {"train": 20, "val": 4})
    config = recipe(tmp_path, images={"folder": str(tmp_path / "scenes" / "train")})
    code = (
        "from glmix.tasks import Classification\n"
        "step = Classification.training_step\n"
        "def training_step(self, batch, batch_idx):\n"
        "    print('in a step', flush=True)\n"
        "    return step(self, batch, batch_idx)\n"
        "Classification.training_step = training_step\n"
    )
    options = ("--set", "classifier.recipe.epochs", "5000")
    process = Command("weakseg", "fit", "--config", config, *options, code=code)
    assert process.stdout.readline() == "in a step\n"
    process.send_signal(signal.SIGINT)
    _, error = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Training test_glnet" in error
    assert error.strip().splitlines()[-1] == "glmix weakseg: interrupted"
    assert "Traceback" not in error
    assert not (tmp_path / "out").exists()
