"""Own images through `glmix fit`, `validate` and `predict`: lists, several labels, soft labels and other channels."""

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

import glmix_cli
from glmix.models import load_folder
from glmix.tasks import load_trained

COLOURS = {"blue": (20, 20, 200), "red": (200, 20, 20)}
MODEL = {"model": "test_glnet", "schedule": {"warmup_epochs": 0}, "optimizer": {"lr": 2e-3, "base_batch": None}}


def write_list(path: Path, rows: list[dict[str, Any]]) -> None:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def config_of(folder: Path, source: dict[str, Any], model: dict[str, Any], **data: Any) -> Path:
    trainer = {"max_epochs": 2, "accelerator": "cpu", "default_root_dir": str(folder / "run"), "logger": False}
    loading = {"batch_size": 4, "num_workers": 0, "transforms": {"size": 32, "auto_augment": None}}
    content = {
        "model": {"class_path": "Classification", "init_args": {**MODEL, **model}},
        "data": {"class_path": "ImageData", "init_args": {"source": source, **loading, **data}},
        "trainer": {**trainer, "enable_progress_bar": False},
    }
    (folder / "config.yaml").write_text(yaml.safe_dump(content))
    return folder / "config.yaml"


def best(folder: Path) -> Path:
    return folder / "run" / "checkpoints" / "best.ckpt"


@pytest.fixture(scope="module")
def listed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a finished run on a list of images with several labels, with class weights and balanced sampling."""
    folder = tmp_path_factory.mktemp("listed")
    rows = []
    for index in range(18):
        names = [["blue"], ["red"], ["blue", "red"]][index % 3]
        image = np.zeros((32, 32, 3), dtype=np.uint8)
        for place, name in enumerate(names):
            image[:, 16 * place : 16 * place + 16] = COLOURS[name]
        Image.fromarray(image).save(folder / f"{index}.png")
        rows.append({"file": f"{index}.png", "tags": ";".join(names)})
    write_list(folder / "photos.csv", rows)
    columns = {"file": str(folder / "photos.csv"), "path": "file", "label": "tags", "targets": "classes"}
    source = {"reader": "list", "list": columns, "split": {"val": 0.34}}
    model = {"multi_label": True, "class_weights": "balanced", "ema_decay": 0.5}
    config = config_of(folder, source, model, balanced=True)
    assert glmix_cli.main(["fit", "--config", str(config)]) == 0
    return folder


def test_the_run_folder_has_the_split(listed: Path) -> None:
    with (listed / "run" / "split.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert sorted(row["split"] for row in rows) == ["train"] * 12 + ["val"] * 6
    assert {row["label"] for row in rows} == {"blue", "red", "blue;red"}


def test_predict_uses_the_threshold_of_the_validation(listed: Path, tmp_path: Path, capsys: Any) -> None:
    info = torch.load(best(listed), weights_only=True)["glmix"]
    chosen = info["thresholds"]["_ema" if info["ema_is_better"] else ""]
    capsys.readouterr()
    files = [str(listed / f"{index}.png") for index in range(3)]
    assert glmix_cli.main(["predict", *files, "--checkpoint", str(best(listed)), "--json"]) == 0
    for result in json.loads(capsys.readouterr().out)["results"]:
        assert result["threshold"] == pytest.approx(chosen)
        expected = {one["label"] for one in result["predictions"] if one["probability"] >= chosen}
        assert set(result["labels"]) == expected
    assert glmix_cli.main(["convert", str(best(listed)), str(tmp_path / "folder")]) == 0
    assert load_folder(tmp_path / "folder").threshold == pytest.approx(chosen)


def test_validate_gives_the_scores_of_the_checkpoint(listed: Path, capsys: Any) -> None:
    capsys.readouterr()
    assert glmix_cli.main(["validate", "--config", str(listed / "config.yaml")]) == 0
    printed = capsys.readouterr().out
    assert "val/f1_macro" in printed
    assert "val/mAP_ema" in printed


def test_a_changed_split_is_not_continued(listed: Path, capsys: Any) -> None:
    arguments = ["--config", str(listed / "config.yaml"), "--trainer.max_epochs", "3", "--data.source.split.seed", "1"]
    assert glmix_cli.main(["fit", *arguments]) == 2
    assert "The random split differs from that of the checkpoint" in capsys.readouterr().err


@pytest.fixture(scope="module")
def channels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a finished run on 5-channel images of 16 bits, with scores as targets."""
    tifffile = pytest.importorskip("tifffile")
    folder = tmp_path_factory.mktemp("channels")
    random, rows = np.random.default_rng(0), []
    for index in range(12):
        image = random.integers(0, 2**12, (36, 40, 5)).astype(np.uint16)
        image[..., index % 2] += 2**14
        name = f"{index}.npy" if index < 6 else f"{index}.tif"
        if index < 6:
            np.save(folder / name, image)
        else:
            tifffile.imwrite(folder / name, image.transpose(2, 0, 1), photometric="minisblack")
        part = "val" if index in (0, 1, 6, 7) else "train"
        rows.append({"path": name, "first": 0.9 - 0.8 * (index % 2), "second": 0.1 + 0.8 * (index % 2), "part": part})
    write_list(folder / "bands.csv", rows)
    columns = {"file": str(folder / "bands.csv"), "label": ["first", "second"], "targets": "scores", "split": "part"}
    source = {"reader": "list", "list": columns, "channels": 5}
    assert glmix_cli.main(["fit", "--config", str(config_of(folder, source, {"smoothing": 0.1}))]) == 0
    return folder


def test_images_with_five_channels_are_trained_and_predicted(channels: Path, capsys: Any) -> None:
    model = load_trained(best(channels))
    assert model.in_chans == 5
    cfg = model.pretrained_cfg
    assert cfg["input_size"] == (5, 32, 32)
    assert len(cfg["mean"]) == len(cfg["std"]) == 5
    assert cfg["mean"][0] == pytest.approx((2**13 + 2**11) / 65535, rel=0.05)  # half of the images have 2**14 more
    assert cfg["mean"][4] == pytest.approx(2**11 / 65535, rel=0.05)
    capsys.readouterr()
    assert glmix_cli.main(["predict", str(channels), "--checkpoint", str(best(channels)), "--json"]) == 0
    results = {Path(one["file"]).name: one for one in json.loads(capsys.readouterr().out)["results"]}
    assert len(results) == 12
    image = torch.from_numpy(np.load(channels / "0.npy").astype(np.float32) / 65535).permute(2, 0, 1)
    from torchvision.transforms import functional as F

    pixels = F.center_crop(F.resize(image, [35], F.InterpolationMode.BICUBIC), [32, 32])
    with torch.no_grad():
        expected = model(F.normalize(pixels, cfg["mean"], cfg["std"])[None])[0].softmax(0)
    found = {one["label"]: one["probability"] for one in results["0.npy"]["predictions"]}
    assert found == pytest.approx({"first": float(expected[0]), "second": float(expected[1])}, abs=1e-5)


def test_images_with_other_channels_are_errors_of_single_files(channels: Path, tmp_path: Path, capsys: Any) -> None:
    np.save(tmp_path / "four.npy", np.zeros((8, 8, 4)))
    assert glmix_cli.main(["predict", str(tmp_path), "--checkpoint", str(best(channels))]) == 2
    assert "four.npy cannot be read (it has the shape (8, 8, 4)" in capsys.readouterr().err


def test_soft_labels_are_validated_by_their_highest_class(channels: Path, capsys: Any) -> None:
    capsys.readouterr()
    assert glmix_cli.main(["validate", "--config", str(channels / "config.yaml")]) == 0
    assert "val/top1" in capsys.readouterr().out
