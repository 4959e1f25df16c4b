"""`glmix detect`: pictures and a COCO JSON of what is in images."""

import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from glmix.data.coco.files import open_coco
from glmix.data.coco.masks import decode_segmentation
from glmix.data.coco.modules import DetectionScenes
from glmix.data.scenes import SceneConfig, draw_scene
from glmix.tasks import Detection, DetectorConfig, OptimizerConfig, ScheduleConfig
from glmix.tasks.detection.predictor import DetectionPredictor, Detections, overlay
from glmix_cli import main

from ..tasks.runs import trainer

SCENES = SceneConfig(size=48, objects=(2, 3))


def train(root: Path, kind: str) -> Path:
    """The checkpoint of a detector after one step."""
    parts = {"channels": 16, "box_features": 16, "min_size": 64, "max_size": 96, "max_detections": 6}
    task = Detection(
        model="test_glnet",
        model_args={"widths": (16, 16, 32, 32), "depths": (1, 1, 1, 1), "num_slots": 4},
        detector=DetectorConfig(kind=kind, frozen_statistics=False, **parts),  # type: ignore[arg-type]
        optimizer=OptimizerConfig(lr=1e-3, base_batch=None),
        schedule=ScheduleConfig(warmup_epochs=0),
    )
    scenes = DetectionScenes(SCENES, train_count=2, val_count=1, batch_size=2)
    scenes.category_ids = [4, 5, 7, 8, 9, 90]
    trainer(root, max_epochs=1).fit(task, scenes)
    return root / "checkpoints" / "step-00000001.ckpt"


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train(tmp_path_factory.mktemp("mask_rcnn"), "mask_rcnn")


Run = Callable[..., "Done"]


@dataclass(frozen=True)
class Done:
    returncode: int
    stdout: str
    stderr: str


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Run `glmix ...` in an empty folder, within this process."""

    def done(*arguments: object) -> Done:
        monkeypatch.chdir(tmp_path)
        capsys.readouterr()
        code = main([str(part) for part in arguments])
        said = capsys.readouterr()
        return Done(code, said.out, said.err)

    return done


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    (folder / "deep").mkdir(parents=True)
    for k, name in enumerate(("a.png", "a.jpg", "deep/b.png")):
        Image.fromarray(draw_scene(SCENES, "val", k).image).resize((60 + 20 * k, 50)).save(folder / name)
    return folder


def test_a_folder_becomes_overlays_and_a_json_that_coco_reads(glmix, checkpoint, photos, tmp_path):
    (photos / "broken.png").write_text("no image")
    result = glmix("detect", photos, "--checkpoint", checkpoint, "-o", "out", "--score", 0, "--json")
    assert result.returncode == 1
    assert "broken.png" in result.stderr
    out = tmp_path / "out"
    written = {file.relative_to(out).as_posix() for file in out.rglob("*.*")}
    assert written == {"detections.json", "a.jpg_overlay.png", "a.png_overlay.png", "deep/b_overlay.png"}
    content = json.loads((out / "detections.json").read_text())
    assert json.loads(result.stdout) == content
    assert [image["width"] for image in content["images"]] == [80, 60, 100]
    assert [category["id"] for category in content["categories"]] == [4, 5, 7, 8, 9, 90]
    assert [entry["file"] for entry in content["errors"]] == [str(photos / "broken.png")]
    assert content["annotations"]
    sizes = {image["id"]: (image["height"], image["width"]) for image in content["images"]}
    for item in content["annotations"]:
        assert 0 <= item["score"] <= 1
        assert item["category_id"] in (4, 5, 7, 8, 9, 90)
        mask = decode_segmentation(item["segmentation"], *sizes[item["image_id"]])
        assert mask.sum() == item["area"]
    content["annotations"] = [item for item in content["annotations"] if min(item["bbox"][2:]) > 0]
    (out / "detections.json").write_text(json.dumps(content))
    assert len(open_coco(Path("/"), out / "detections.json", masks=True)) == 3


def test_the_command_says_what_the_predictor_says(run, checkpoint, photos, tmp_path):
    result = run("detect", photos / "a.png", "--checkpoint", checkpoint, "-o", "out", "--score", 0.1)
    assert result.returncode == 0, result.stderr
    assert "detections.json" in result.stdout
    items = json.loads((tmp_path / "out" / "detections.json").read_text())["annotations"]
    found = DetectionPredictor.from_checkpoint(checkpoint, score=0.1)(Image.open(photos / "a.png"))
    assert len(items) == len(found)
    assert found.masks is not None
    assert found.masks.shape == (len(found), 50, 60)
    assert all(score >= 0.1 for score in found.scores)
    for item, box, score in zip(items, found.boxes, found.scores, strict=True):
        assert item["bbox"][:2] == pytest.approx(box[:2].tolist(), abs=1e-3)
        assert item["score"] == pytest.approx(float(score), abs=1e-5)
    assert (tmp_path / "out" / "a_overlay.png").is_file()


def test_an_image_that_the_network_cannot_take_loses_none_of_the_others(run, checkpoint, photos, tmp_path, monkeypatch):
    whole, count = DetectionPredictor.__call__, sum(file.is_file() for file in photos.rglob("*"))
    seen = []

    def no_room(self, image):
        seen.append(image)
        if len(seen) == 1:
            raise torch.OutOfMemoryError("no room for it")
        return whole(self, image)

    monkeypatch.setattr(DetectionPredictor, "__call__", no_room)
    result = run("detect", photos, "--checkpoint", checkpoint, "-o", "out", "--no-overlays")
    assert result.returncode == 1
    assert "no room for it" in result.stderr
    assert len(json.loads((tmp_path / "out" / "detections.json").read_text())["images"]) == len(seen) - 1 < count


def test_results_that_are_there_are_not_overwritten_unasked(run, checkpoint, photos):
    arguments = ["detect", photos / "a.png", "--checkpoint", checkpoint, "-o", "out", "--no-overlays"]
    assert run(*arguments).returncode == 0
    again = run(*arguments)
    assert again.returncode == 2
    assert "out/detections.json is there already: choose another folder, or replace it" in again.stderr
    assert run(*arguments, "--overwrite").returncode == 0


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--checkpoint", "absent.ckpt"], "No checkpoint at absent.ckpt"),
        (["--checkpoint", "CHECKPOINT", "--score", "2"], "score must be from 0 to 1, got 2.0"),
        (["--checkpoint", "CHECKPOINT", "--device", "cuda:99"], "--device cuda:99: "),
    ],
)
def test_what_cannot_be_done_says_why(run, checkpoint, photos, arguments, words):
    arguments = [str(checkpoint) if part == "CHECKPOINT" else part for part in arguments]
    result = run("detect", photos, "-o", "out", *arguments)
    assert result.returncode == 2
    assert words in result.stderr
    assert "Traceback" not in result.stderr


def test_a_checkpoint_of_another_task_is_refused(checkpoint, tmp_path):
    content = torch.load(checkpoint, weights_only=True)
    content["glmix"]["task"] = "Segmentation"
    torch.save(content, tmp_path / "other.ckpt")
    with pytest.raises(ValueError, match="holds a network for Segmentation, and a detector is needed"):
        DetectionPredictor.from_checkpoint(tmp_path / "other.ckpt")


def test_an_overlay_shows_each_box_in_the_colour_of_its_class():
    image = Image.new("RGB", (200, 100), (90, 90, 90))
    masks = np.zeros((2, 100, 200), bool)
    masks[0, 40:80, 20:60] = True
    boxes = np.array([[20, 40, 60, 80], [100, 10, 190, 90]], np.float32)
    labels, scores = np.array([1, 2]), np.array([0.9, 0.6], np.float32)
    picture = np.asarray(overlay(image, Detections(boxes, labels, scores, masks), ["some_cat", "dog"]))
    assert picture.shape == (200, 400, 3)  # twice as large, so that names can be read
    plain = np.asarray(overlay(image, Detections(boxes, labels, scores, None), ["some_cat", "dog"]))
    assert (picture != plain).any(2)[84:156, 44:116].mean() > 0.9  # the tint
    assert (plain[100, 80] == 90).all()
    assert (plain[100, 40] != 90).any()  # the first box's left side
    assert (plain[100, 200] != plain[100, 40]).any()  # the second's


def test_nothing_found_is_a_picture_and_an_empty_list():
    image = Image.new("RGB", (500, 400))
    nothing = Detections(np.zeros((0, 4), np.float32), np.zeros(0, np.int64), np.zeros(0, np.float32), None)
    assert overlay(image, nothing, ["cat"]).size == (500, 400)
    assert nothing.coco(1, [7]) == nothing.areas == []


def test_a_missing_extra_is_told(run, checkpoint, photos, monkeypatch):
    monkeypatch.setitem(sys.modules, "faster_coco_eval", None)
    result = run("detect", photos / "a.png", "--checkpoint", checkpoint, "-o", "out", "--score", 0)
    assert result.returncode == 2
    assert "pip install 'glmix[dense]'" in result.stderr
