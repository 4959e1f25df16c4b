"""Tests of `glmix detect`."""

import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from glmix import inference
from glmix.data.detection.datamodule import DetectionScenes
from glmix.data.detection.files import open_coco
from glmix.data.detection.rle import decode_segmentation, encode_mask
from glmix.data.scenes import SceneConfig, draw_scene
from glmix.tasks import Detection, DetectorConfig, OptimizerConfig, ScheduleConfig
from glmix.tasks.detection.predictor import DetectionPredictor, Detections, overlay
from glmix_cli import main
from tests.runs import trainer

SCENES = SceneConfig(size=48, objects=(2, 3))


def train(root: Path, kind: str) -> Path:
    """The checkpoint of a detector after one training step."""
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
    """Run `glmix ...` in this process in an empty folder."""

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
    overlays = {"overlays/a.jpg.png", "overlays/a.png.png", "overlays/deep/b.png"}
    assert written == {"_manifest.json", "rows/part-00000.parquet", "detections.json", *overlays}
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


def test_the_command_agrees_with_the_predictor(run, checkpoint, photos, tmp_path):
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
    assert (tmp_path / "out" / "overlays" / "a.png").is_file()


def test_an_image_that_the_network_cannot_process_does_not_affect_the_others(
    run, checkpoint, photos, tmp_path, monkeypatch
):
    whole = DetectionPredictor.compute

    def no_room(self, images):
        if any(image.shape[2] == 80 for image in images):
            raise torch.OutOfMemoryError("no room for it")
        return whole(self, images)

    monkeypatch.setattr(DetectionPredictor, "compute", no_room)
    result = run("detect", photos, "--checkpoint", checkpoint, "-o", "out", "--no-overlays")
    assert result.returncode == 1
    assert "no room for it" in result.stderr
    images = json.loads((tmp_path / "out" / "detections.json").read_text())["images"]
    assert [image["width"] for image in images] == [60, 100]


IDS = [31, 7, 90, 4, 12, 55]  # of the classes, in another order than the labels


@dataclass(frozen=True)
class Annotations:
    """A COCO JSON for the photos, whose ground truth is close to the predictions of the detector."""

    path: Path
    content: dict[str, Any]

    def save(self) -> None:
        self.path.write_text(json.dumps(self.content))


@pytest.fixture
def annotated(checkpoint: Path, photos: Path, tmp_path: Path) -> Annotations:
    random = np.random.default_rng(0)
    detect = DetectionPredictor.from_checkpoint(checkpoint, score=None)
    images, objects = [], []
    for number, name in ((70, "a.png"), (12, "a.jpg"), (33, "elsewhere/b.png")):
        image = Image.open(photos / ("deep/b.png" if number == 33 else name))
        images.append({"id": number, "file_name": name, "width": image.width, "height": image.height})
        found = detect(image)
        assert found.masks is not None
        for k in range(0, len(found), 2):
            mask = np.roll(found.masks[k], random.integers(-2, 3, 2), (0, 1))
            mask[20:30, 20:40] = True
            box = (found.boxes[k] + random.normal(0, 1, 4)).astype(float).tolist()
            objects.append(
                {
                    "id": len(objects) + 1,
                    "image_id": number,
                    "category_id": IDS[found.labels[k] - 1],
                    "bbox": [box[0], box[1], box[2] - box[0], box[3] - box[1]],
                    "segmentation": encode_mask(mask),
                    "area": float(mask.sum()),
                    "iscrowd": 0,
                }
            )
    images.append({"id": 5, "file_name": "not given.png", "width": 60, "height": 50})
    objects.append({**objects[0], "id": len(objects) + 1, "image_id": 5, "bbox": [1, 1, 20, 20]})
    names = detect.class_names
    categories = sorted(
        ({"id": k, "name": n} for k, n in zip(IDS, names, strict=True)), key=lambda c: int(str(c["id"]))
    )
    made = Annotations(
        tmp_path / "own.json",
        {"info": {}, "images": images, "annotations": objects, "categories": categories},
    )
    made.save()
    return made


def test_results_keep_the_annotation_ids_and_scores_match_pycocotools(run, checkpoint, photos, annotated, tmp_path):
    coco, cocoeval = pytest.importorskip("pycocotools.coco"), pytest.importorskip("pycocotools.cocoeval")
    result = run("detect", photos, "--checkpoint", checkpoint, "--annotations", annotated.path, "-o", "out")
    assert result.returncode == 0, result.stderr
    assert "over 3 of the 4 images of" in result.stdout
    content = json.loads((tmp_path / "out" / "detections.json").read_text())
    assert {image["id"] for image in content["images"]} == {70, 12, 33}
    assert {c["name"]: c["id"] for c in content["categories"]} == {
        c["name"]: c["id"] for c in annotated.content["categories"]
    }
    assert all(item["score"] >= 0.5 for item in content["annotations"])
    evaluation = content["evaluation"]
    assert (evaluation["images"], evaluation["images_in_file"]) == (3, 4)

    truth = coco.COCO(annotated.path)
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert len(results) > len(content["annotations"])  # also those with a low score
    assert all(isinstance(item["segmentation"]["counts"], str) for item in results)
    for kind, iou_type in (("box", "bbox"), ("mask", "segm")):
        judged = cocoeval.COCOeval(truth, truth.loadRes(str(tmp_path / "out" / "results.json")), iou_type)
        judged.params.imgIds = [70, 12, 33]
        judged.evaluate()
        judged.accumulate()
        judged.summarize()
        for name, place in (("AP", 0), ("AP50", 1), ("AP75", 2)):
            assert evaluation["scores"][f"{kind}_{name}"] == pytest.approx(judged.stats[place], abs=1e-9)
        assert 0.05 < judged.stats[0] < 0.95
        assert f"{kind} AP {judged.stats[0]:.4f}, AP50 {judged.stats[1]:.4f}" in result.stdout


def test_annotations_without_masks_score_only_boxes(run, checkpoint, photos, annotated, tmp_path):
    for item in annotated.content["annotations"]:
        item["segmentation"] = []
    annotated.save()
    result = run("detect", photos, "--checkpoint", checkpoint, "--annotations", annotated.path, "-o", "out", "--json")
    assert result.returncode == 0, result.stderr
    scores = json.loads(result.stdout)["evaluation"]["scores"]
    assert scores["box_AP"] > 0.05
    assert "mask_AP" not in scores


def test_an_image_that_the_annotations_do_not_name_is_an_error_of_this_image(run, checkpoint, photos, annotated):
    Image.new("RGB", (60, 50)).save(photos / "stranger.png")
    result = run("detect", photos, "--checkpoint", checkpoint, "--annotations", annotated.path, "-o", "out", "--json")
    assert result.returncode == 1
    content = json.loads(result.stdout)
    assert len(content["images"]) == 3
    assert [Path(entry["file"]).name for entry in content["errors"]] == ["stranger.png"]
    assert "own.json" in content["errors"][0]["error"]
    assert "stranger.png" in result.stderr


def test_ambiguous_file_names_raise_an_error(run, checkpoint, photos, annotated, tmp_path):
    arguments = ["--checkpoint", checkpoint, "--annotations", annotated.path, "-o", "out"]
    (photos / "other").mkdir()
    Image.new("RGB", (100, 50)).save(photos / "other" / "b.png")
    two_files = run("detect", photos, *arguments)
    assert two_files.returncode == 2
    assert "deep/b.png" in two_files.stderr
    assert "other/b.png" in two_files.stderr
    (photos / "other" / "b.png").unlink()
    annotated.content["images"].append({"id": 6, "file_name": "more/b.png", "width": 100, "height": 50})
    annotated.save()
    two_images = run("detect", photos, *arguments)
    assert two_images.returncode == 2
    assert "elsewhere/b.png" in two_images.stderr
    assert "more/b.png" in two_images.stderr
    annotated.content["images"][-1]["file_name"] = "deep/b.png"  # the path below the folder comes first
    annotated.save()
    assert run("detect", photos, *arguments, "--no-overlays").returncode == 0
    images = json.loads((tmp_path / "out" / "detections.json").read_text())["images"]
    assert {image["id"] for image in images} == {70, 12, 6}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda content: content["categories"][0].update(name="zebra"), "zebra"),
        (lambda content: content["categories"].append({"id": 99, "name": "zebra"}), "zebra"),
        (lambda content: content["categories"][0].update(name=content["categories"][1]["name"]), "unique"),
        (lambda content: content["annotations"][0].pop("segmentation"), "annotation 1"),
        (lambda content: content.pop("categories"), "categories"),
    ],
)
def test_annotations_that_do_not_fit_the_detector_raise_an_error(run, checkpoint, photos, annotated, change, words):
    change(annotated.content)
    annotated.save()
    result = run("detect", photos, "--checkpoint", checkpoint, "--annotations", annotated.path, "-o", "out")
    assert result.returncode == 2
    assert words in result.stderr
    assert "own.json" in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1


def test_annotations_refer_to_the_pixels_that_are_stored(run, checkpoint, photos, annotated, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.open(photos / "a.png").save(photos / "a.png", exif=exif)  # 60 x 50 as it is stored
    arguments = ["--checkpoint", checkpoint, "-o", "out", "--no-overlays", "--overwrite"]
    assert run("detect", photos / "a.png", *arguments, "--annotations", annotated.path).returncode == 0
    (image,) = json.loads((tmp_path / "out" / "detections.json").read_text())["images"]
    assert (image["width"], image["height"]) == (60, 50)
    assert run("detect", photos / "a.png", *arguments).returncode == 0
    (image,) = json.loads((tmp_path / "out" / "detections.json").read_text())["images"]
    assert (image["width"], image["height"]) == (50, 60)


def test_a_repeated_command_continues_and_another_one_is_refused(run, checkpoint, photos, tmp_path):
    options = ["--checkpoint", checkpoint, "-o", "out", "--no-overlays", "--score", 0, "--shard-size", 1]
    assert run("detect", photos, *options, "--share", "1/2").returncode == 0
    assert [file.name for file in (tmp_path / "out" / "rows").glob("part-*")] == ["part-00001.parquet"]
    assert not (tmp_path / "out" / "detections.json").exists()
    continued = run("detect", photos, *options)
    assert "3 images in out, 0 of them with errors; 2 computed" in continued.stdout
    found = (tmp_path / "out" / "detections.json").read_bytes()
    assert run("detect", photos, *options).returncode == 0
    assert (tmp_path / "out" / "detections.json").read_bytes() == found
    again = run("detect", photos, *options, "--score", 0.3)
    assert again.returncode == 2
    assert "score was 0.0 and is now 0.3" in again.stderr
    assert run("detect", photos / "a.png", *options, "--overwrite").returncode == 0
    assert [file.name for file in (tmp_path / "out" / "rows").glob("part-*")] == ["part-00000.parquet"]


def test_batches_give_the_results_of_single_images(checkpoint, photos):
    """Images of different sizes share forward passes, with padding that the pixel mask hides."""
    predict = DetectionPredictor.from_checkpoint(checkpoint, score=0.0, max_input_pixels=9_000)
    files = [*sorted(photos.rglob("*.*")), photos / "a.png"]
    passes = []
    predict.network.register_forward_pre_hook(lambda module, inputs: passes.append(len(inputs[0])))
    rows = [*chain(*inference.run(predict, inference.Files(files), batch_size=8, num_workers=0))]
    assert len(passes) < len(files) == sum(passes)
    assert max(passes) > 1
    for file, row in zip(files, rows, strict=True):
        alone = predict(file)
        np.testing.assert_allclose(row["boxes"], alone.boxes, atol=1e-3)
        np.testing.assert_allclose(row["scores"], alone.scores, atol=1e-4)
        assert row["classes"] == alone.labels.tolist()
        stored = Detections.from_row({**row, "masks": row["masks"]}).segmentations()
        for ours, theirs in zip(stored, alone.segmentations(), strict=True):
            masks = [decode_segmentation(one, row["height"], row["width"]) for one in (ours, theirs)]
            assert (masks[0] != masks[1]).mean() < 0.001


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--checkpoint", "absent.ckpt"], "No checkpoint at absent.ckpt"),
        (["--checkpoint", "CHECKPOINT", "--score", "2"], "score must be from 0 to 1, got 2.0"),
        (["--checkpoint", "CHECKPOINT", "--device", "cuda:99"], "--device cuda:99: "),
    ],
)
def test_invalid_arguments_are_reported(run, checkpoint, photos, arguments, words):
    arguments = [str(checkpoint) if part == "CHECKPOINT" else part for part in arguments]
    result = run("detect", photos, "-o", "out", *arguments)
    assert result.returncode == 2
    assert words in result.stderr
    assert "Traceback" not in result.stderr


def test_tiles_are_read_from_a_large_file(run, checkpoint, tmp_path):
    pixels = np.asarray(Image.effect_noise((150, 110), 90).convert("RGB").resize((300, 220)))
    Image.fromarray(pixels).save(tmp_path / "large.png")
    np.save(tmp_path / "large.npy", pixels)
    options = ["--checkpoint", checkpoint, "--score", 0, "--tile", 100, "--max-input-pixels", 20_000, "--json"]
    found = []
    for name, more in (("large.png", []), ("large.npy", ["--max-pixels", 100])):
        result = run("detect", name, *options, *more, "-o", name.replace(".", "-"))
        assert result.returncode == 0, result.stderr
        content = json.loads(result.stdout)
        assert (content["images"][0]["width"], content["images"][0]["height"]) == (300, 220)
        found.append(content["annotations"])
    assert found[0] == found[1]
    assert max(x + w for x, _, w, _ in (item["bbox"] for item in found[0])) > 200
    assert (tmp_path / "large-png" / "overlays" / "large.png").is_file()
    assert not (tmp_path / "large-npy" / "overlays").exists()
    assert run("detect", "large.png", *options[:4], "-o", "x", "--overlap", 5).returncode == 2


def test_a_checkpoint_of_another_task_is_refused(tmp_path):
    from tests.runs import data, task, trainer

    trainer(tmp_path / "run", max_epochs=2).fit(task(), data(train_count=4))
    file = next((tmp_path / "run" / "checkpoints").glob("*.ckpt"))
    with pytest.raises(ValueError, match="contains a network for Classification, not for detection"):
        DetectionPredictor.from_checkpoint(file)


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


def test_an_image_without_detections_has_an_overlay_and_an_empty_list():
    image = Image.new("RGB", (500, 400))
    nothing = Detections(np.zeros((0, 4), np.float32), np.zeros(0, np.int64), np.zeros(0, np.float32), None)
    assert overlay(image, nothing, ["cat"]).size == (500, 400)
    assert nothing.coco(1, [7]) == nothing.areas == []


def test_a_missing_extra_is_reported(run, checkpoint, photos, monkeypatch):
    monkeypatch.setitem(sys.modules, "faster_coco_eval", None)
    result = run("detect", photos / "a.png", "--checkpoint", checkpoint, "-o", "out", "--score", 0)
    assert result.returncode == 2
    assert "pip install 'glmix[dense]'" in result.stderr
