"""Scenes on disk, read with common readers of each format."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image
from torchvision.datasets import CocoDetection, ImageFolder

from glmix.data.scenes import SceneConfig, draw_scene, write_scenes
from glmix.data.scenes.write import run_lengths

MANY = SceneConfig()
ONE = SceneConfig(objects=(1, 1))


def pixels(path: Path) -> np.ndarray[Any, Any]:
    return np.asarray(Image.open(path))


def test_torchvision_reads_an_imagefolder_with_the_same_classes(tmp_path: Path) -> None:
    write_scenes(tmp_path / "out", "imagefolder", ONE, {"train": 60, "val": 40})
    for split, count in (("train", 60), ("val", 40)):
        folder = ImageFolder(tmp_path / "out" / split)
        assert len(folder) == count
        assert [name[3:] for name in folder.classes] == list(ONE.class_names)
        for path, label in folder.samples:
            scene = draw_scene(ONE, split, int(Path(path).stem))  # type: ignore[arg-type]
            assert label == scene.labels[0]
            assert np.array_equal(pixels(Path(path)), scene.image)


def test_segmentation_layout_has_ade20k_names_and_exact_masks(tmp_path: Path) -> None:
    write_scenes(tmp_path / "out", "segmentation", MANY, {"train": 12, "val": 5})
    for split, long_name, count in (("train", "training", 12), ("val", "validation", 5)):
        images = sorted((tmp_path / "out" / "images" / long_name).iterdir())
        masks = sorted((tmp_path / "out" / "annotations" / long_name).iterdir())
        assert len(images) == len(masks) == count
        for index, (image, mask) in enumerate(zip(images, masks, strict=True)):
            scene = draw_scene(MANY, split, index)  # type: ignore[arg-type]
            assert image.name == f"scene_{split}_{index + 1:08d}.jpg"
            assert mask.name == f"scene_{split}_{index + 1:08d}.png"
            assert Image.open(mask).mode == "L"
            assert np.array_equal(pixels(mask), scene.semantic)
            assert np.abs(pixels(image).astype(int) - scene.image).mean() < 4, "JPEG, of high quality"


def test_segmentation_layout_has_a_table_of_classes(tmp_path: Path) -> None:
    write_scenes(tmp_path / "out", "segmentation", MANY, {"train": 12, "val": 5})
    header, *rows = [line.split("\t") for line in (tmp_path / "out" / "objectInfo.txt").read_text().splitlines()]
    assert header == ["Idx", "Ratio", "Train", "Val", "Name"]
    assert [row[0] for row in rows] == [str(k) for k in range(1, 7)]
    assert [row[4] for row in rows] == list(MANY.class_names)
    assert sum(float(row[1]) for row in rows) == pytest.approx(1, abs=1e-3)
    scenes = [draw_scene(MANY, "val", index) for index in range(5)]
    assert [int(row[3]) for row in rows] == [sum(k in scene.labels for scene in scenes) for k in range(6)]


def test_pycocotools_reads_exact_masks_boxes_and_areas(tmp_path: Path) -> None:
    coco = pytest.importorskip("pycocotools.coco")
    masks = pytest.importorskip("pycocotools.mask")
    write_scenes(tmp_path / "out", "coco", MANY, {"train": 10, "val": 6})
    for split, count in (("train", 10), ("val", 6)):
        reader = coco.COCO(tmp_path / "out" / "annotations" / f"instances_{split}2017.json")
        assert len(reader.getImgIds()) == count
        assert [c["name"] for c in reader.loadCats(sorted(reader.getCatIds()))] == list(MANY.class_names)
        for number in reader.getImgIds():
            scene = draw_scene(MANY, split, number - 1)  # type: ignore[arg-type]
            (info,) = reader.loadImgs(number)
            assert np.array_equal(pixels(tmp_path / "out" / f"{split}2017" / info["file_name"]), scene.image)
            found = reader.loadAnns(reader.getAnnIds(number))
            assert [item["category_id"] - 1 for item in found] == scene.labels.tolist()
            for item, mask in zip(found, scene.masks, strict=True):
                assert np.array_equal(reader.annToMask(item), mask)
                encoded = reader.annToRLE(item)
                assert masks.area(encoded) == item["area"]
                assert masks.toBbox(encoded).tolist() == item["bbox"]
                assert item["iscrowd"] == 0


def test_coco_evaluation_of_the_ground_truth_is_perfect(tmp_path: Path) -> None:
    coco = pytest.importorskip("pycocotools.coco")
    evaluation = pytest.importorskip("pycocotools.cocoeval")
    write_scenes(tmp_path / "out", "coco", MANY, {"val": 12})
    reader = coco.COCO(tmp_path / "out" / "annotations" / "instances_val2017.json")
    for kind in ("bbox", "segm"):
        perfect = reader.loadRes([dict(item, score=1.0) for item in reader.dataset["annotations"]])
        evaluator = evaluation.COCOeval(reader, perfect, kind)
        evaluator.evaluate()
        evaluator.accumulate()
        evaluator.summarize()
        assert evaluator.stats[0] == pytest.approx(1.0)


def test_torchvision_reads_a_coco_folder(tmp_path: Path) -> None:
    pytest.importorskip("pycocotools")
    write_scenes(tmp_path / "out", "coco", MANY, {"val": 4})
    data = CocoDetection(tmp_path / "out" / "val2017", tmp_path / "out" / "annotations" / "instances_val2017.json")
    for index in range(4):
        image, targets = data[index]
        scene = draw_scene(MANY, "val", index)
        assert np.array_equal(np.asarray(image), scene.image)
        assert len(targets) == len(scene.labels)


def test_ids_in_a_coco_file_are_unique_and_from_one(tmp_path: Path) -> None:
    write_scenes(tmp_path / "out", "coco", MANY, {"train": 10})
    content = json.loads((tmp_path / "out" / "annotations" / "instances_train2017.json").read_text())
    for kind in ("images", "annotations", "categories"):
        assert [item["id"] for item in content[kind]] == list(range(1, len(content[kind]) + 1))


@settings(max_examples=60, deadline=None)
@given(hnp.arrays(bool, st.tuples(st.integers(1, 9), st.integers(1, 9))))
def test_run_lengths_decode_to_the_mask(mask: np.ndarray[Any, Any]) -> None:
    lengths = run_lengths(mask)
    values = np.arange(len(lengths)) % 2 == 1
    assert np.array_equal(np.repeat(values, lengths).reshape(mask.shape, order="F"), mask)
    assert all(length > 0 for length in lengths[1:])


def test_progress_is_called_once_per_scene(tmp_path: Path) -> None:
    ticks: list[None] = []
    write_scenes(tmp_path / "out", "coco", MANY, {"train": 3, "val": 2}, lambda: ticks.append(None))
    assert len(ticks) == 5


def test_empty_folder_is_accepted_and_non_empty_folder_is_an_error(tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    write_scenes(out, "coco", MANY, {"val": 2})
    with pytest.raises(FileExistsError, match="exists and is not an empty folder"):
        write_scenes(out, "coco", MANY, {"val": 2})
    file = tmp_path / "file"
    file.touch()
    with pytest.raises(FileExistsError, match="is not an empty folder"):
        write_scenes(file, "coco", MANY, {"val": 2})


def interrupt() -> None:
    raise KeyboardInterrupt


@pytest.mark.parametrize("layout", ["imagefolder", "segmentation", "voc", "coco"])
def test_interrupted_write_leaves_no_files(layout: Any, tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        write_scenes(tmp_path / "out", layout, ONE, {"train": 30}, interrupt)
    assert list(tmp_path.iterdir()) == []


def test_class_without_an_image_is_an_error_and_leaves_no_files(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"split train has the class .*number of scenes"):
        write_scenes(tmp_path / "out", "imagefolder", ONE, {"train": 3})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda root: write_scenes(root, "yolo", ONE, {"train": 3}), "layout must be one of imagefolder, segmentation"),  # type: ignore[arg-type]
        (lambda root: write_scenes(root, "imagefolder", MANY, {"train": 3}), r"needs objects=\(1, 1\), got \(1, 3\)"),
        (lambda root: write_scenes(root, "coco", MANY, {"train": 0}), "Every split needs at least one scene"),
        (lambda root: write_scenes(root, "coco", MANY, {"train": -2}), "Every split needs at least one scene"),
        (lambda root: write_scenes(root, "coco", MANY, {}), "Every split needs at least one scene"),
    ],
)
def test_invalid_arguments_are_errors(call: Callable[[Path], None], message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        call(tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_latin_class_names_in_an_imagefolder(tmp_path: Path) -> None:
    latin = replace(ONE, labelling="latin", textures=("stripes", "checks", "dots"))
    write_scenes(tmp_path / "out", "imagefolder", latin, {"train": 30})
    assert sorted(path.name for path in (tmp_path / "out" / "train").iterdir()) == [
        "00_latin_0",
        "01_latin_1",
        "02_latin_2",
    ]
