"""`glmix validate` and `glmix test` store predictions and write a report on them."""

import json
import os
import shutil
import socket
import tarfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import lightning.pytorch as L
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader, TensorDataset

from glmix.data.classification.datamodule import ImageData
from glmix.data.classification.source import ImageSource
from glmix.data.classification.transforms import TransformConfig
from glmix.data.scenes import SceneConfig, draw_scene
from glmix.reports import ClassPredictions, PixelPredictions, load_predictions
from glmix.tasks.recording import Recorder
from glmix_cli import main
from tests.reports.conftest import SCREENS, TASKS, cells, write
from tests.runs import task, trainer


def report_of(folder: Path, split: str = "val") -> dict[str, Any]:
    report: dict[str, Any] = json.loads((folder / "run" / "reports" / split / "report.json").read_text())
    return report


@pytest.mark.parametrize(
    ("name", "score"), [("single", "top1"), ("several", "mAP"), ("segmentation", "mIoU"), ("detection", "box_AP")]
)
def test_report_has_the_scores_of_the_validation(runs: dict[str, Path], name: str, score: str) -> None:
    report = report_of(runs[name])
    logged = report["about"]["scores"]
    better = "" if name != "single" else "EMA" if logged["EMA"]["top1"] > logged["raw"]["top1"] else "raw"
    assert report["scores"][score] == pytest.approx(logged[better][score], abs=1e-6)
    if "loss" in report["scores"]:
        assert report["scores"]["loss"] == pytest.approx(logged[better]["loss"], rel=1e-5)
    assert (report["about"]["network"] or "").split(" ")[0] == better
    assert report["images"] == 13
    assert Path(report["about"]["weights"]).suffix == ".ckpt"
    assert set(report["about"]["versions"]) == {"glmix", "torch", "timm"}


@pytest.mark.parametrize("name", list(TASKS))
def test_report_from_stored_predictions_equals_the_first(runs: dict[str, Path], name: str, tmp_path: Path) -> None:
    folder = runs[name] / "run" / "reports" / "val"
    assert main(["report", str(runs[name] / "run"), "-o", str(tmp_path)]) == 0
    for file in ("report.json", "report.md", "report.html"):
        assert (tmp_path / file).read_text() == (folder / file).read_text(), file


@pytest.mark.parametrize("screen", list(SCREENS))
@pytest.mark.parametrize("name", ["single", "several", "segmentation", "detection"])
def test_page_of_every_task(
    runs: dict[str, Path], open_page: Callable[[Path, str], Any], name: str, screen: str
) -> None:
    page = open_page(runs[name] / "run" / "reports" / "val" / "report.html", screen)
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert page.locator(".tiles dd").first.inner_text().endswith("%")
    title = "Classes and thresholds" if name == "several" else "Classes"
    assert len(cells(page, title)) == (7 if name == "segmentation" else 6)
    pictures = page.locator(".pictures img").evaluate_all("(all) => all.map((one) => one.naturalWidth)")
    assert all(width > 0 for width in pictures)
    assert bool(pictures) == (name != "detection")  # an untrained detector finds nothing


def test_samples_have_names_and_pictures(runs: dict[str, Path]) -> None:
    folder = runs["single"] / "run" / "reports" / "val"
    predictions = load_predictions(folder)
    assert predictions.names == [f"scene {k}" for k in range(13)]
    assert isinstance(predictions, ClassPredictions)
    scenes = SceneConfig(size=32, objects=(1, 1))
    assert predictions.targets.tolist() == [int(draw_scene(scenes, "val", k).labels[0]) for k in range(13)]
    mistakes = report_of(runs["single"])["mistakes"]
    assert len(list((folder / "pictures").iterdir())) == len(mistakes) > 0
    with Image.open(folder / "pictures" / f"00-{mistakes[0]['sample']}.jpg") as picture:
        assert max(picture.size) == 320
    maps = load_predictions(runs["segmentation"] / "run" / "reports" / "val")
    assert isinstance(maps, PixelPredictions)
    assert maps.pixels.sum() == 13 * 32 * 32
    (first, *_) = sorted((runs["segmentation"] / "run" / "reports" / "val" / "pictures").iterdir())
    with Image.open(first) as picture:  # image, ground truth and prediction
        assert picture.width > 2.5 * picture.height


def test_test_uses_the_temperature_of_the_validation(runs: dict[str, Path], tmp_path: Path) -> None:
    run = shutil.copytree(runs["single"], tmp_path / "copy")
    config = str(write(run, "single"))
    folder = str(run / "run" / "reports" / "val")
    assert main(["test", "--config", config]) == 0
    # the predictions of the validation are by the weights of the other folder
    assert report_of(run, "test")["fitted_on_itself"]
    assert main(["validate", "--config", config]) == 0
    assert main(["test", "--config", config]) == 0
    report = report_of(run, "test")
    assert (report["fitted_on"], report["images"]) == (folder, 9)
    assert report["calibration"]["temperature"] == report_of(run)["calibration"]["temperature"]
    assert "fitted on" in (run / "run" / "reports" / "test" / "report.html").read_text()


def test_report_option(runs: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = str(runs["several"] / "config.yaml")
    shutil.rmtree(runs["several"] / "run" / "reports" / "test", ignore_errors=True)
    assert main(["test", "--config", config, "--report", "none"]) == 0
    assert "Report" not in capsys.readouterr().err
    assert not (runs["several"] / "run" / "reports" / "test").exists()
    assert main(["test", "--config", config, "--report", str(tmp_path / "mine")]) == 0
    assert f"Report: {tmp_path / 'mine' / 'report.html'}" in capsys.readouterr().err
    (tmp_path / "file").write_text("")
    assert main(["test", "--config", config, "--report", str(tmp_path / "file")]) == 2
    assert str(tmp_path / "file") in capsys.readouterr().err


SHARED = ("single", "segmentation", "detection")


def validate(rank: int, port: int, commands: Sequence[Sequence[str]]) -> None:
    """Run commands as one of two processes, like torchrun."""
    os.environ.update(
        {
            "LOCAL_RANK": str(rank),
            "NODE_RANK": "0",
            "WORLD_SIZE": "2",
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(port),
        }
    )
    torch.set_num_threads(1)
    assert [main(command) for command in commands] == [0] * len(commands)


@pytest.fixture(scope="module")
def shared(runs: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Validate three tasks by two processes; return the folder of their reports."""
    folder = tmp_path_factory.mktemp("shared")
    options = ("--data.eval_batch_size", "2", "--trainer.devices", "2", "--trainer.strategy", "ddp")
    commands = [
        ("validate", "--config", str(runs[name] / "config.yaml"), *options, "--report", str(folder / name))
        for name in SHARED
    ]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    # forked processes need not import torch again
    torch.multiprocessing.start_processes(validate, args=(port, commands), nprocs=2, start_method="fork")
    return folder


@pytest.mark.parametrize("name", SHARED)
def test_two_processes_equal_one(runs: dict[str, Path], shared: Path, name: str) -> None:
    one, two = load_predictions(runs[name] / "run" / "reports" / "val"), load_predictions(shared / name)
    assert one.names == two.names
    if isinstance(one, ClassPredictions) and isinstance(two, ClassPredictions):
        assert one.targets.tolist() == two.targets.tolist()
        assert torch.allclose(torch.from_numpy(one.logits), torch.from_numpy(two.logits), atol=1e-4)
    first, second = report_of(runs[name]), json.loads((shared / name / "report.json").read_text())
    for key in first["scores"]:
        assert second["scores"][key] == pytest.approx(first["scores"][key], abs=1e-4), key
    assert [item["name"] for item in second["mistakes"]] == [item["name"] for item in first["mistakes"]]


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Return image folders in which one image of validation is damaged, and the configuration of a run on them."""
    root = tmp_path_factory.mktemp("photos")
    for split, count in (("train", 4), ("val", 5)):
        for k, name in enumerate(("blue", "red")):
            (root / "data" / split / name).mkdir(parents=True)
            for number in range(count):
                image = Image.new("RGB", (40, 32), ((40, 60, 200), (200, 40, 40))[k])
                image.save(root / "data" / split / name / f"{number}.png")
    (root / "data" / "val" / "blue" / "3.png").write_bytes(b"no image")
    config = write(root, "single")
    text = config.read_text().replace("glmix.data.classification.datamodule.ScenesData", "ImageData")
    lines = [line for line in text.splitlines() if not any(key in line for key in ("_count", "scenes", "size: 32"))]
    start_of_objects = next(k for k, line in enumerate(lines) if "objects" in line)
    del lines[start_of_objects : start_of_objects + 3]
    config.write_text("\n".join(lines) + "\n")
    data = ["--data.source.root", str(root / "data"), "--data.transforms.size", "32", "--data.num_workers", "0"]
    assert main(["fit", "--config", str(config), *data]) == 0
    return root, config


def test_unreadable_images_do_not_shift_the_names(
    photos: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    root, config = photos
    data = ["--data.source.root", str(root / "data"), "--data.transforms.size", "32", "--data.num_workers", "0"]
    assert main(["validate", "--config", str(config), *data]) == 0
    predictions = load_predictions(root / "run" / "reports" / "val")
    assert isinstance(predictions, ClassPredictions)
    assert "blue/3.png" not in predictions.names
    assert len(predictions) == 9
    for name, target in zip(predictions.names, predictions.targets, strict=True):
        assert Path(name).parts[-2] == predictions.class_names[target]


def test_predictions_that_are_not_finite_give_no_report(
    runs: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (checkpoint,) = (runs["several"] / "run" / "checkpoints").glob("step-*.ckpt")
    content = torch.load(checkpoint, weights_only=True)
    for tensor in content["state_dict"].values():
        if tensor.is_floating_point():
            tensor.fill_(torch.nan)
    torch.save(content, tmp_path / "nan.ckpt")
    arguments = ["--weights", str(tmp_path / "nan.ckpt"), "--report", str(tmp_path / "report")]
    with pytest.warns(match="not finite"):
        assert main(["validate", "--config", str(runs["several"] / "config.yaml"), *arguments]) == 0
    assert "val/loss" in capsys.readouterr().out


def test_streams_number_their_samples(tmp_path: Path) -> None:
    pytest.importorskip("webdataset")
    with tarfile.open(tmp_path / "val.tar", "w") as tar:
        for number in range(5):
            Image.new("RGB", (32, 32), (50 * number, 0, 0)).save(tmp_path / "part", "JPEG")
            tar.add(tmp_path / "part", f"{number}.jpg")
            (tmp_path / "part").write_text(str(number % 2))
            tar.add(tmp_path / "part", f"{number}.cls")
    info = {"name": "val", "num_samples": 5, "filenames": ["val.tar"], "shard_lengths": [5]}
    (tmp_path / "_info.json").write_text(json.dumps({"splits": {"val": info}}))
    source = ImageSource(str(tmp_path), "wds", num_classes=2)
    data = ImageData(source, TransformConfig(size=32), batch_size=2, num_workers=0)
    recorder = Recorder(tmp_path / "report")
    trainer(tmp_path, callbacks=[recorder]).validate(task(ema_decay=None), data, verbose=False)
    assert recorder.written
    predictions = load_predictions(tmp_path / "report")
    assert isinstance(predictions, ClassPredictions)
    assert predictions.names == ["0", "1", "2", "3", "4"]
    assert predictions.targets.tolist() == [0, 1, 0, 1, 0]
    assert predictions.class_names == ["class 0", "class 1"]
    assert predictions.about["weights"] is None


class Tensors(L.LightningDataModule):
    """A data module of another library: scores of the classes as targets, no names of samples."""

    num_classes, class_names = 3, None

    def __init__(self) -> None:
        super().__init__()
        self.targets = torch.tensor([[0.1, 0.2, 0.7], [0.8, 0.1, 0.1], [0.2, 0.6, 0.2]])

    def val_dataloader(self) -> DataLoader[Any]:
        return DataLoader(TensorDataset(torch.rand(3, 3, 32, 32), self.targets), batch_size=2)


def test_data_modules_of_other_libraries(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path / "report")
    run = trainer(tmp_path, callbacks=[recorder])
    run.validate(task(ema_decay=None, mix=None), Tensors(), verbose=False)
    predictions = load_predictions(tmp_path / "report")
    assert isinstance(predictions, ClassPredictions)
    assert (predictions.names, predictions.targets.tolist()) == (["0", "1", "2"], [2, 0, 1])


def test_report_names_the_threshold_of_the_model(runs: dict[str, Path]) -> None:
    report = report_of(runs["several"])
    assert report["about"]["threshold"] == pytest.approx(report["about"]["scores"][""]["threshold"])
    text = (runs["several"] / "run" / "reports" / "val" / "report.md").read_text()
    assert f"Threshold of the model: {report['about']['threshold']:.3f}" in text
    assert "threshold" not in report_of(runs["single"])["about"]["scores"]["raw"]
