"""Images and masks on disk: content, layouts, and error messages for invalid data."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from glmix.data.core.image_files import read_upright
from glmix.data.scenes import SceneConfig, draw_scene, write_scenes
from glmix.data.segmentation.files import IGNORE, VOC_CLASSES, open_masks

SCENES = SceneConfig(size=32)


def pixels(shape: tuple[int, ...], highest: int = 256) -> np.ndarray[Any, np.dtype[np.uint8]]:
    return np.random.default_rng(0).integers(0, highest, shape, dtype=np.uint8)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two images of 6 x 4 pixels (width x height) with masks of three classes: {images,masks}/train/{a,b}.png."""
    for kind in ("images", "masks"):
        (tmp_path / kind / "train").mkdir(parents=True)
    (tmp_path / "classes.txt").write_text("sky\nhouse\ntree\n")
    for name in "ab":
        Image.fromarray(pixels((4, 6, 3))).save(tmp_path / "images" / "train" / f"{name}.png")
        Image.fromarray(pixels((4, 6), 3)).save(tmp_path / "masks" / "train" / f"{name}.png")
    return tmp_path


def test_ade20k_layout_matches_the_scenes(tmp_path: Path) -> None:
    write_scenes(tmp_path / "out", "segmentation", SCENES, {"train": 3, "val": 2})
    for split, count in (("train", 3), ("val", 2)):
        files = open_masks(tmp_path / "out", split)
        assert len(files) == count
        assert files.class_names == SCENES.class_names
        for index in range(count):
            scene = draw_scene(SCENES, split, index)  # type: ignore[arg-type]
            expected = np.where(scene.semantic == 0, IGNORE, scene.semantic - 1)
            assert np.array_equal(files.mask(index), expected)
            assert files.labels(index) == set(scene.labels.tolist())
            assert files.instances(index) is None
            assert files.name(index) == f"scene_{split}_{index + 1:08d}"


def test_voc_layout_matches_the_scenes(tmp_path: Path) -> None:
    write_scenes(tmp_path / "VOCdevkit" / "VOC2012", "voc", SCENES, {"train": 3, "val": 2})
    for root in (tmp_path, tmp_path / "VOCdevkit" / "VOC2012"):
        files = open_masks(root, "trainval", "voc")
        assert files.class_names == ("background", *SCENES.class_names)
        assert len(files) == 5
    scenes = [draw_scene(SCENES, "train", index) for index in range(3)]
    for index, scene in enumerate(scenes):
        instances = files.instances(index)
        assert instances is not None
        assert np.array_equal(files.mask(index), scene.semantic)
        assert np.array_equal(instances, scene.instances)
        assert files.labels(index) == {label + 1 for label in scene.labels.tolist()}
    described = {index: files.labels(index) for index in range(3)}
    for file in (tmp_path / "VOCdevkit" / "VOC2012" / "Annotations").iterdir():
        file.unlink()
    files = open_masks(tmp_path, "train", "voc")
    assert {index: files.labels(index) for index in range(3)} == described, "from the masks, without XML annotations"


def test_torchvision_reads_the_voc_layout(tmp_path: Path) -> None:
    from torchvision.datasets import VOCDetection, VOCSegmentation

    write_scenes(tmp_path / "VOCdevkit" / "VOC2012", "voc", SCENES, {"train": 2, "val": 1})
    scene = draw_scene(SCENES, "train", 1)
    image, mask = VOCSegmentation(tmp_path, "2012", "train")[1]
    assert image.size == (32, 32)
    assert mask.mode == "P"
    assert np.array_equal(np.asarray(mask), scene.semantic)
    assert mask.getpalette()[:12] == [0, 0, 0, 128, 0, 0, 0, 128, 0, 128, 128, 0], "Pascal VOC's first colours"
    objects = VOCDetection(tmp_path, "2012", "train")[1][1]["annotation"]["object"]
    for item, box in zip(objects, scene.boxes.tolist(), strict=True):
        found = {side: int(value) for side, value in item["bndbox"].items()}
        assert found == {"xmin": box[0] + 1, "ymin": box[1] + 1, "xmax": box[2], "ymax": box[3]}


def test_the_folder_layout_includes_subfolders(folder: Path) -> None:
    for kind in ("images", "masks"):
        (folder / kind / "train").rename(folder / kind / "x")
        (folder / kind / "training").mkdir()
        (folder / kind / "x").rename(folder / kind / "training" / "town")
    files = open_masks(folder, "train", "folder")
    assert [files.name(index) for index in range(len(files))] == ["town/a", "town/b"]
    assert files.class_names == ("sky", "house", "tree")
    assert np.array_equal(files.mask(0), pixels((4, 6), 3)), "0 is a class"


def test_masks_can_be_in_another_folder(tmp_path: Path) -> None:
    write_scenes(tmp_path / "voc", "voc", SCENES, {"train": 2})
    files = open_masks(tmp_path / "voc", "train", "voc")
    (tmp_path / "guessed").mkdir()
    for index in range(2):
        Image.fromarray(np.full((32, 32), index + 1, np.uint8)).save(tmp_path / "guessed" / f"{files.name(index)}.png")
    guessed = open_masks(tmp_path / "voc", "train", "voc", masks=tmp_path / "guessed")
    assert [set(np.unique(guessed.mask(index)).tolist()) for index in range(2)] == [{1}, {2}]


def test_voc_classes_are_the_default_of_the_voc_layout(tmp_path: Path) -> None:
    write_scenes(tmp_path / "voc", "voc", SCENES, {"train": 1})
    (tmp_path / "voc" / "classes.txt").unlink()
    assert open_masks(tmp_path / "voc", "train", "voc").class_names == VOC_CLASSES
    assert open_masks(tmp_path / "voc", "train", "voc", classes=9).class_names[8] == "class 8"


@pytest.mark.parametrize("mode", ["L", "P", "I;16", "1"])
def test_masks_of_every_mode_are_read_as_ids(mode: str, folder: Path) -> None:
    ids = pixels((4, 6), 2 if mode == "1" else 3)
    file = folder / "masks" / "train" / "a.png"
    if mode == "I;16":
        Image.fromarray(ids.astype(np.uint16)).save(file)
    elif mode == "P":
        mask = Image.fromarray(ids)
        mask.putpalette([200, 0, 0, 0, 200, 0, 0, 0, 200])
        mask.save(file)
    else:
        Image.fromarray(ids if mode == "L" else ids.astype(bool)).save(file)
    assert Image.open(file).mode == mode
    assert np.array_equal(open_masks(folder, "train", "folder").mask(0), ids)


@pytest.mark.parametrize("mode", ["CMYK", "L", "I;16", "LA", "RGBA", "P", "1"])
def test_images_of_every_mode_are_read_as_rgb(mode: str, folder: Path) -> None:
    (folder / "images" / "train" / "a.png").unlink()
    grey = np.full((4, 6), 128, np.uint8)
    image = Image.fromarray(grey.astype(np.uint16) << 8) if mode == "I;16" else Image.fromarray(grey).convert(mode)
    image.save(folder / "images" / "train" / ("a.tif" if mode == "CMYK" else "a.png"))
    files = open_masks(folder, "train", "folder")
    assert files.image(0).mode == "RGB"
    if mode != "1":
        assert np.abs(np.asarray(files.image(0)).astype(int) - 128).max() <= 1
    assert files.mask(0).shape == (4, 6)


def test_float_images_are_rejected(folder: Path) -> None:
    (folder / "images" / "train" / "a.png").unlink()
    Image.fromarray(np.full((4, 6), 0.5, np.float32)).save(folder / "images" / "train" / "a.tif")
    with pytest.raises(ValueError, match=r"a.tif cannot be read .*float values.*8 or 16 bits"):
        open_masks(folder, "train", "folder").image(0)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_images_and_masks_are_rotated_by_their_exif_tag(orientation: int, folder: Path) -> None:
    file = folder / "images" / "train" / "a.png"
    raw = Image.open(file)
    raw.load()
    tag = Image.Exif()
    tag[0x0112] = orientation
    raw.save(file, exif=tag)
    files = open_masks(folder, "train", "folder")
    upright = {
        1: raw,
        2: raw.transpose(Image.Transpose.FLIP_LEFT_RIGHT),
        3: raw.transpose(Image.Transpose.ROTATE_180),
        4: raw.transpose(Image.Transpose.FLIP_TOP_BOTTOM),
        5: raw.transpose(Image.Transpose.TRANSPOSE),
        6: raw.transpose(Image.Transpose.ROTATE_270),
        7: raw.transpose(Image.Transpose.TRANSVERSE),
        8: raw.transpose(Image.Transpose.ROTATE_90),
    }[orientation]
    assert np.array_equal(np.asarray(files.image(0)), np.asarray(upright))
    deep = Image.fromarray(np.asarray(raw.convert("L")).astype(np.uint16) << 8)
    deep.save(file.with_name("deep.png"), exif=tag)
    sixteen = read_upright(file.with_name("deep.png"))
    assert np.array_equal(np.asarray(sixteen), np.asarray(upright.convert("L").convert("RGB"))), "16-bit images as well"
    if orientation < 5:
        assert files.mask(0).shape == (4, 6)
        return
    with pytest.raises(ValueError, match=r"a\.png is 6 x 4 pixels, but its image .*a\.png is 4 x 6 .*EXIF"):
        files.mask(0)
    mask = Image.open(folder / "masks" / "train" / "a.png")
    mask.load()
    mask.save(folder / "masks" / "train" / "a.png", exif=tag)
    assert files.mask(0).shape == (6, 4), "a mask with the same tag is rotated with its image"


def save_mask(folder: Path, mask: Image.Image) -> None:
    mask.save(folder / "masks" / "train" / "b.png")


def damage(folder: Path) -> None:
    file = folder / "masks" / "train" / "b.png"
    file.write_bytes(file.read_bytes()[:50])


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda f: save_mask(f, Image.new("L", (5, 4))), r"b\.png is 5 x 4 pixels, but its image .*b\.png is 6 x 4\."),
        (
            lambda f: save_mask(f, Image.new("L", (6, 4), 3)),
            r"b\.png has the class id 3 \(row 0, column 0\)\. .* 3 classes.* from 0 to 2, and 255",
        ),
        (lambda f: save_mask(f, Image.new("I;16", (6, 4), 4000)), "has the class id 4000"),
        (lambda f: save_mask(f, Image.new("RGB", (6, 4))), r"b\.png .*mode is RGB.*one class id per pixel"),
        (damage, r"The mask .*b\.png cannot be read"),
    ],
)
def test_invalid_masks_are_rejected(spoil: Callable[[Path], None], message: str, folder: Path) -> None:
    spoil(folder)
    with pytest.raises(ValueError, match=message):
        open_masks(folder, "train", "folder").check()


def test_zero_can_be_ignored(folder: Path) -> None:
    save_mask(folder, Image.new("L", (6, 4), 4))
    files = open_masks(folder, "train", "folder", zero_is_class=False)
    with pytest.raises(ValueError, match=r"has the class id 4 .* from 1 to 3, and 0 and 255"):
        files.mask(1)
    save_mask(folder, Image.new("L", (6, 4), 3))
    assert set(files.mask(1).ravel().tolist()) == {2}
    assert set(files.mask(0).ravel().tolist()) == {0, 1, IGNORE}


def test_check_reads_masks_at_equal_intervals(folder: Path) -> None:
    save_mask(folder, Image.new("L", (6, 4), 9))
    files = open_masks(folder, "train", "folder")
    files.check(limit=1)
    with pytest.raises(ValueError, match="class id 9"):
        files.check(limit=2)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda f: (f / "masks/train/a.png").unlink(), r"The image a has no mask of that name in .*masks/train"),
        (lambda f: (f / "images/train/a.png").unlink(), r"The mask a has no image of that name in .*images/train"),
        (lambda f: (f / "masks").rename(f / "labels"), r"masks of the layout folder .*has classes.txt, images"),
        (lambda f: (f / "masks/train").rename(f / "masks/t"), r"masks has no train; it has t"),
        (lambda f: [p.unlink() for p in f.glob("*/train/*")], r"There are no images in"),
    ],
)
def test_missing_files_are_named(spoil: Callable[[Path], Any], message: str, folder: Path) -> None:
    spoil(folder)
    with pytest.raises(FileNotFoundError, match=message):
        open_masks(folder, "train", "folder")


def test_missing_files_of_the_voc_layout_are_named(tmp_path: Path) -> None:
    write_scenes(tmp_path / "voc", "voc", SCENES, {"train": 2, "val": 1})
    with pytest.raises(FileNotFoundError, match=r"no list .*trainaug\.txt; .* has train, trainval, val"):
        open_masks(tmp_path / "voc", "trainaug", "voc")
    (tmp_path / "voc" / "JPEGImages" / "scene_val_00000001.jpg").unlink()
    with pytest.raises(FileNotFoundError, match=r"The mask scene_val_00000001 has no image"):
        open_masks(tmp_path / "voc", "val", "voc")
    file = tmp_path / "voc" / "Annotations" / "scene_train_00000001.xml"
    file.write_text("<annotation><object><name>unicorn</name></object></annotation>")
    with pytest.raises(ValueError, match=r"scene_train_00000001\.xml has an object 'unicorn'; .*background"):
        open_masks(tmp_path / "voc", "train", "voc").labels(0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"layout": "yolo"}, "layout must be one of ade20k, voc, folder"),
        ({"classes": 0}, "There must be 1 to 254 classes"),
        ({"classes": 255}, "There must be 1 to 254 classes"),
        ({"classes": ["a", "a"]}, "unique names"),
    ],
)
def test_invalid_arguments_are_rejected(options: dict[str, Any], message: str, folder: Path) -> None:
    with pytest.raises(ValueError, match=message):
        open_masks(folder, "train", **{"layout": "folder", **options})
    (folder / "classes.txt").unlink()
    with pytest.raises(ValueError, match=r"set classes to .*classes\.txt"):
        open_masks(folder, "train", "folder")
