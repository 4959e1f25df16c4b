"""COCO JSON: reading, validation before training, data sets and data modules."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms.v2.functional import pil_to_tensor

from glmix.data.core.sampling import Draw
from glmix.data.detection.datamodule import CocoData, DetectionScenes
from glmix.data.detection.dataset import CocoSource, DetectionSamples, SceneSource
from glmix.data.detection.files import open_coco, read_stored
from glmix.data.detection.rle import decode_segmentation, encode_mask, to_rle
from glmix.data.detection.transforms import DetectionTransform
from glmix.data.scenes import SceneConfig, SceneDataset, draw_scene, write_scenes
from glmix.data.scenes.write import run_lengths
from tests.data.conftest import take

SCENES = SceneConfig(size=48, objects=(1, 3))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("coco") / "scenes"
    write_scenes(root, "coco", SCENES, {"train": 6, "val": 3})
    return root


def content_of(**changes: Any) -> dict[str, Any]:
    """Return a COCO JSON: three images of 20 x 10 pixels (W x H), two with objects or a crowd; ids have gaps."""
    square = [2, 2, 8, 2, 8, 8, 2, 8]
    mask = np.zeros((10, 20), bool)
    mask[1:4, 5:15] = True
    return {
        "images": [{"id": k, "file_name": f"{k}.png", "width": 20, "height": 10} for k in (7, 3, 5)],
        "annotations": [
            {"id": 11, "image_id": 7, "category_id": 90, "bbox": [2, 2, 6, 6], "area": 36, "segmentation": [square]},
            {
                "id": 12,
                "image_id": 3,
                "category_id": 4,
                "bbox": [5, 1, 10, 3],
                "area": 30,
                "iscrowd": 1,
                "segmentation": {"size": [10, 20], "counts": run_lengths(mask)},
            },
            {
                "id": 13,
                "image_id": 7,
                "category_id": 4,
                "bbox": [5, 1, 10, 3],
                "area": 30,
                "iscrowd": 0,
                "segmentation": encode_mask(mask),
            },
        ],
        "categories": [{"id": 90, "name": "cat"}, {"id": 4, "name": "dog"}, {"id": 8, "name": "emu"}],
        **changes,
    }


Write = Callable[..., tuple[Path, Path]]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """A function that writes images and a JSON, and returns both paths."""

    def place(content: Any, missing: tuple[int, ...] = ()) -> tuple[Path, Path]:
        images = tmp_path / "images"
        images.mkdir(exist_ok=True)
        for k in (7, 3, 5):
            if k not in missing:
                Image.new("RGB", (20, 10), (k, 0, 0)).save(images / f"{k}.png")
        (tmp_path / "a.json").write_text(content if isinstance(content, str) else json.dumps(content))
        return images, tmp_path / "a.json"

    return place


def test_targets_have_consecutive_labels(write: Write) -> None:
    files = open_coco(*write(content_of()), masks=True)
    assert files.categories == {4: "dog", 8: "emu", 90: "cat"}
    assert (files.class_names, files.category_ids) == (["dog", "emu", "cat"], [4, 8, 90])
    assert len(files) == 3
    assert files.with_objects().tolist() == [0]  # the others have a crowd or nothing
    target = files.target(0)
    assert target["image_id"] == 7
    assert target["size"] == (10, 20)
    assert target["boxes"].tolist() == [[2, 2, 8, 8], [5, 1, 15, 4]]
    assert target["labels"].tolist() == [3, 1]
    assert target["iscrowd"].tolist() == [0, 0]
    assert target["area"].tolist() == [36, 30]
    assert files.target(1)["iscrowd"].tolist() == [1]
    assert files.target(2)["boxes"].shape == (0, 4)
    assert np.asarray(files.image(1))[0, 0].tolist() == [3, 0, 0]


def test_rle_and_polygons_decode_to_the_same_mask() -> None:
    mask = np.zeros((12, 17), bool)
    mask[3:9, 2:11] = True
    polygon = [[2, 3, 11, 3, 11, 9, 2, 9]]
    forms = [{"size": [12, 17], "counts": run_lengths(mask)}, encode_mask(mask), polygon]
    for form in forms:
        assert np.array_equal(decode_segmentation(form, 12, 17), mask)
        assert to_rle(form, 12, 17) == encode_mask(mask)
    both = [[2, 3, 6, 3, 6, 9, 2, 9], [6, 3, 11, 3, 11, 9, 6, 9]]
    assert np.array_equal(decode_segmentation(both, 12, 17), mask)


def test_masks_equal_pycocotools() -> None:
    api = pytest.importorskip("pycocotools.mask")
    random = np.random.default_rng(0)
    for _ in range(20):
        polygons = [random.uniform(0, 40, 2 * int(random.integers(3, 8))).tolist() for _ in range(2)]
        theirs = api.decode(api.merge(api.frPyObjects(polygons, 40, 50)))
        assert np.array_equal(decode_segmentation(polygons, 40, 50), theirs)
        assert encode_mask(theirs)["counts"] == api.encode(np.asfortranarray(theirs))["counts"].decode()


def remove(name: str, *keys: str) -> dict[str, Any]:
    """Return the JSON without these keys in the first entry of a list."""
    content = content_of()
    content[name][0] = {k: v for k, v in content[name][0].items() if k not in keys}
    return content


def change(name: str, **changes: Any) -> dict[str, Any]:
    """Return the JSON with changes to the first entry of a list."""
    content = content_of()
    content[name][0] |= changes
    return content


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (change("annotations", image_id=8), "annotation 11 belongs to the image 8, which is not in the list of 3"),
        (change("annotations", category_id=5), "annotation 11 has the category 5, which is not .*: 90, 4, 8"),
        (change("annotations", bbox=[2, 2, 0, 6]), r"annotation 11 has the box \[2, 2, 0, 6\] .* without area"),
        (change("annotations", bbox=[30, 2, 5, 5]), "without area in the image 7 of 20 x 10 pixels"),
        (change("annotations", bbox=[1, 2, 3]), "must be four numbers, x, y, width, height"),
        (change("annotations", bbox=[1, 2, 3, float("nan")]), "must be four numbers"),
        (change("annotations", id=12), "the annotation id 12 occurs twice"),
        (change("images", id=3), "the image id 3 occurs twice"),
        (change("categories", id=4), "the category id 4 occurs twice"),
        (change("images", id="7"), "image at index 0 has the id '7'"),
        (remove("images", "width"), "image 7 needs file_name, width and height"),
        (remove("categories", "name"), "category 90 has no name"),
        (change("annotations", segmentation=[[1, 2, 3, 4]]), "annotation 11 in the image 7 .* polygon of 4 numbers"),
        (change("annotations", segmentation=[]), "no segmentation"),
        (remove("annotations", "segmentation"), "no segmentation"),
        (change("annotations", segmentation={"size": [20, 10], "counts": "x"}), r"of size \[20, 10\] for an image of"),
        (change("annotations", segmentation={"size": [10, 20], "counts": [5, 5]}), "RLE of 10 pixels for"),
        (change("annotations", segmentation={"counts": [5]}), "must have size and counts, found counts"),
        (change("annotations", segmentation={"size": 10, "counts": "x"}), "RLE of size 10 for an image of"),
        (change("annotations", segmentation={"size": [10, 20], "counts": [100, "a"]}), "RLE whose counts"),
        (change("annotations", segmentation={"size": [10, 20], "counts": [-5, 205]}), "RLE whose counts"),
        (change("annotations", segmentation={"size": [10, 20], "counts": 5}), "RLE whose counts"),
        (change("annotations", segmentation=[["1"] * 6]), "annotation 11 in the image 7 .* polygon .*numbers"),
        (change("annotations", segmentation=[[1, 2, None, 4, 5, 6]]), "coordinates must be numbers"),
        (change("annotations", segmentation=[[1, 2, float("nan"), 4, 5, 6]]), "coordinates must be numbers"),
        (change("annotations", segmentation=[[1e9, 2, 3, 4, 5, 6]]), "coordinates must be numbers"),
        ({"images": []}, "with the lists images, annotations, categories; found the keys images"),
        ([], "found list"),
        ("{", "is not valid JSON"),
        (content_of(categories=[], annotations=[]), "has no categories"),
    ],
)
def test_an_invalid_json_is_rejected(write: Write, content: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        open_coco(*write(content), masks=True)
    assert "a.json" in str(caught.value)


def test_missing_files_are_named(write: Write, tmp_path: Path) -> None:
    images, path = write(content_of(), missing=(3, 5))
    with pytest.raises(FileNotFoundError, match=r"2 of 3 images of .*a\.json are missing in .*: 3\.png, 5\.png"):
        open_coco(images, path)
    with pytest.raises(FileNotFoundError, match=r"no annotation file .*b\.json"):
        open_coco(images, tmp_path / "b.json")
    with pytest.raises(FileNotFoundError, match="no image folder"):
        open_coco(tmp_path / "elsewhere", path)
    with pytest.raises(FileNotFoundError, match=r"no folder .* set data\.root"):
        CocoData(root=str(tmp_path / "elsewhere")).setup("fit")


def test_segmentations_are_not_required_without_masks(write: Write) -> None:
    assert len(open_coco(*write(remove("annotations", "segmentation")))) == 3


def test_boxes_without_area_can_be_dropped_from_training(write: Write) -> None:
    files = open_coco(*write(change("annotations", bbox=[2, 2, 6, 0])), masks=True, empty_boxes="drop")
    samples = DetectionSamples(CocoSource(files), lambda image, target: (image, target), masks=True)
    _, training_target = samples[Draw(0, 0, 0)]
    assert training_target["labels"].tolist() == [1]
    assert training_target["masks"].shape == (1, 10, 20)
    _, eval_target = samples[0]
    assert eval_target["labels"].tolist() == [3, 1]


def test_validation_uses_the_categories_of_training(write: Write) -> None:
    paths = write(content_of())
    assert open_coco(*paths, categories={4: "dog", 8: "emu", 90: "cat", 91: "yak"}).category_ids == [4, 8, 90, 91]
    with pytest.raises(ValueError, match="category 90 is 'cat', but the training data do not have this id"):
        open_coco(*paths, categories={4: "dog", 8: "emu"})
    with pytest.raises(ValueError, match=r"call it 'pig'\. They have 4 dog, 8 emu, 90 pig"):
        open_coco(*paths, categories={4: "dog", 8: "emu", 90: "pig"})


def coloured(mode: str) -> Image.Image:
    picture = Image.new("RGB", (20, 10), (250, 10, 10))
    if mode == "P":
        return picture.quantize()
    picture = picture.convert("L" if mode == "I;16" else mode)
    if mode == "I;16":
        return Image.fromarray(np.asarray(picture).astype(np.uint16) * 256)
    return picture


@pytest.mark.parametrize(("mode", "suffix"), [("CMYK", "jpg"), ("L", "png"), ("P", "png"), ("I;16", "png")])
def test_images_of_every_mode_are_read_as_rgb(tmp_path: Path, mode: str, suffix: str) -> None:
    file = tmp_path / f"a.{suffix}"
    coloured(mode).save(file)
    image = read_stored(file, (20, 10))
    assert image.mode == "RGB"
    expected = [250, 10, 10] if mode in ("CMYK", "P") else [82, 82, 82]
    assert np.abs(np.asarray(image)[5, 5].astype(int) - expected).max() <= 3


def test_images_are_read_in_the_orientation_of_their_annotations(tmp_path: Path) -> None:
    picture = Image.new("RGB", (20, 10))
    picture.putpixel((0, 0), (255, 255, 255))
    exif = Image.Exif()
    exif[274] = 6  # rotate by 90 degrees
    picture.save(tmp_path / "a.png", exif=exif)
    stored = read_stored(tmp_path / "a.png", (20, 10))  # as in COCO
    assert stored.getpixel((0, 0)) == (255, 255, 255)
    upright = read_stored(tmp_path / "a.png", (10, 20))  # as written by annotation tools that show images upright
    assert upright.size == (10, 20)
    assert upright.getpixel((9, 0)) == (255, 255, 255)
    with pytest.raises(ValueError, match=r"a\.png .*20 x 10.*b\.json.*20 x 11"):
        read_stored(tmp_path / "a.png", (20, 11), Path("b.json"))


def test_an_unreadable_image_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_text("no image")
    with pytest.raises(ValueError, match=r"The image .*a\.png cannot be read"):
        read_stored(tmp_path / "a.png", (20, 11))


def test_scenes_from_files_equal_scenes_from_memory(folder: Path) -> None:
    files = CocoSource(open_coco(folder / "train2017", folder / "annotations/instances_train2017.json", masks=True))
    scenes = SceneSource(SceneDataset(SCENES, "train", 6, target="instances"))
    for k in range(6):
        a, b = files.target(k), scenes.target(k)
        assert torch.equal(files.image(k), scenes.image(k))
        for name in ("boxes", "labels", "area", "iscrowd"):
            assert np.array_equal(a[name], b[name]), name
        assert files.rles(a) == scenes.rles(b)
        assert torch.equal(files.masks(a, [0]), scenes.masks(b, [0]))
        assert np.array_equal(files.masks(a, range(len(a["labels"]))).numpy(), draw_scene(SCENES, "train", k).masks)


def test_transforms_keep_images_boxes_and_masks_aligned(folder: Path) -> None:
    """A mask that is painted into the image still covers the paint, inside its box, after resizing, crop and flip."""
    source = SceneSource(SceneDataset(SCENES, "train", 6, target="instances"))
    hard = DetectionTransform((40, 64), 80, crop=0.7, crop_sizes=(44, 56), crop_range=(30, 50), vflip=0.5)
    seen = set()
    slack = 1.5  # nearest-neighbour resizing is applied twice, and the first result may be enlarged
    for k in range(40):
        mask = source.masks(source.target(k % 6), [0])
        painted = SceneSource(source.scenes)
        painted.image = lambda index, mask=mask: 255 * mask.expand(3, -1, -1)  # type: ignore[method-assign]
        image, target = DetectionSamples(painted, hard.build(), masks=True)[Draw(0, k, k % 6)]
        seen.add(tuple(image.shape))
        assert target["masks"].shape[1:] == image.shape[1:]
        for shown, (x1, y1, x2, y2) in zip(target["masks"], target["boxes"].tolist(), strict=True):
            rows, columns = torch.where(shown.bool())
            if len(rows):
                assert y1 - slack <= rows.min() <= rows.max() < y2 + slack
                assert x1 - slack <= columns.min() <= columns.max() < x2 + slack
        overlap = [((image[0] > 127) & shown.bool()).sum() / max(1, shown.sum()) for shown in target["masks"]]
        if (image[0] > 127).sum() > 30:
            assert max(overlap) > 0.8
    assert len(seen) > 10


def test_training_needs_objects_and_can_include_empty_images(write: Write) -> None:
    images, path = write(content_of())
    options: dict[str, Any] = {"train_images": "images", "train_annotations": "a.json"}
    options |= {"val_images": "images", "val_annotations": "a.json", "root": str(images.parent), "num_workers": 0}
    some, everything = CocoData(**options), CocoData(**options, keep_empty=True)
    for data, count in ((some, 1), (everything, 3)):
        data.setup("fit")
        assert len(data.splits["train"]) == count
        assert len(data.splits["val"]) == 3
        assert (data.num_classes, data.class_names, data.category_ids) == (3, ["dog", "emu", "cat"], [4, 8, 90])
    path.write_text(json.dumps(content_of(annotations=[])))
    with pytest.raises(ValueError, match=r"a\.json has no objects to train on"):
        CocoData(**options).setup("fit")


def test_a_training_sample_without_objects(write: Write) -> None:
    files = open_coco(*write(content_of()), masks=True)
    samples = DetectionSamples(CocoSource(files), DetectionTransform((32,), 64, crop=1.0).build(), masks=True)
    image, target = samples[Draw(0, 0, 2)]
    assert target["boxes"].shape == (0, 4)
    assert target["masks"].shape == (0, *image.shape[1:])


def equal(a: Any, b: Any) -> bool:
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(equal(a[name], b[name]) for name in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(equal(x, y) for x, y in zip(a, b, strict=True))
    return bool(a == b)


@pytest.mark.parametrize("workers", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_the_training_loader_resumes_at_the_next_batch(folder: Path, workers: int) -> None:
    transforms = DetectionTransform((40, 48, 56), 90, crop=0.5, crop_sizes=(48, 60), crop_range=(30, 40))

    def make() -> Any:
        data = CocoData(root=str(folder), transforms=transforms, num_workers=workers)
        data.setup("fit")
        return data.train_dataloader()

    whole = take(make(), 5)
    assert not equal(whole[0][0], whole[3][0])
    for stop in (1, 3):
        first = make()
        before = take(first, stop)
        second = make()
        second.load_state_dict(first.state_dict())
        assert equal(whole, before + take(second, 5 - stop)), stop


def test_invalid_arguments_are_rejected() -> None:
    for transform, message in (
        ({"min_sizes": ()}, "min_sizes must be one or more"),
        ({"min_sizes": (800,), "max_size": 700}, "max_size must be at least 800"),
        ({"crop_range": (5, 3)}, "crop_range must be a minimum and a maximum"),
        ({"hflip": 2.0}, "hflip must be a probability"),
    ):
        with pytest.raises(ValueError, match=message):
            DetectionTransform(**transform)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="batch_size must be at least 1"):
        DetectionScenes(batch_size=0)
    with pytest.raises(ValueError, match="test_images and test_annotations"):
        CocoData(test_images="x")


def test_scenes_are_flipped_with_their_boxes_and_masks(folder: Path) -> None:
    data = DetectionScenes(SCENES, train_count=4, val_count=2, batch_size=2)
    data.setup("fit")
    for images, targets in take(data.train_dataloader(), 6):
        for image, target in zip(images, targets, strict=True):
            assert image.dtype == torch.uint8
            for mask, (x1, y1, x2, y2) in zip(target["masks"], target["boxes"].tolist(), strict=True):
                rows, columns = torch.where(mask.bool())
                assert [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1] == [x1, y1, x2, y2]
    images, targets = next(iter(data.val_dataloader()))
    assert torch.equal(images[0], pil_to_tensor(Image.fromarray(draw_scene(SCENES, "val", 0).image)))
    assert targets[0]["boxes"].tolist() == draw_scene(SCENES, "val", 0).boxes.tolist()
