"""Tests of `glmix segment`."""

import json
import tarfile
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet
import pytest
import tifffile
import torch
from PIL import Image

from glmix import inference
from glmix.data.scenes import SceneConfig, draw_scene
from glmix.data.segmentation.datamodule import SceneMaskData
from glmix.errors import InputError
from glmix.inference import open_source
from glmix.tasks import Segmentation
from glmix.tasks.segmentation.inference import Inference
from glmix.tasks.segmentation.predictor import SegmentationPredictor, overlay, palette_image
from glmix_cli import main
from glmix_cli.results import result_names
from tests.runs import task as classification
from tests.runs import trainer

SCENES = SceneConfig(size=48, shapes=("disc",))
NAMES = ["background", "disc_stripes", "disc_checks"]


class Here:
    """Runs `glmix ...` in this process in an empty folder, which avoids the import time of a new process."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self.capsys = capsys

    def __call__(self, *words: object) -> tuple[int, str, str]:
        """Exit code, output, errors."""
        code = main([*map(str, words)])
        return code, *self.capsys.readouterr()


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Here:
    monkeypatch.chdir(tmp_path)
    return Here(capsys)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("run")
    task = Segmentation(
        model="test_glnet",
        model_args={"depths": (1, 1, 1, 1)},
        decoder="fpn",
        decoder_args={"decoder_pyramid_channels": 32, "decoder_segmentation_channels": 32},
    )
    task.schedule_config.warmup_epochs = 0
    data = SceneMaskData(SCENES, train_count=8, val_count=4, batch_size=4)
    trainer(root, max_epochs=1).fit(task, data)
    return root / "checkpoints" / "best.ckpt"


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """Images of odd sizes: one in a subfolder, one in grey scale, one with an EXIF rotation."""
    folder = tmp_path / "images"
    (folder / "below").mkdir(parents=True)
    scene = Image.fromarray(draw_scene(SCENES, "test", 0).image)
    scene.resize((70, 50)).save(folder / "a.jpg")
    scene.convert("L").save(folder / "below" / "a.png")
    tag = Image.Exif()
    tag[0x0112] = 6
    scene.resize((60, 40)).save(folder / "turned.jpg", exif=tag)
    return folder


def test_masks_overlays_and_json_are_written(run: Here, checkpoint: Path, images: Path, tmp_path: Path) -> None:
    code, printed, errors = run("segment", images, "--checkpoint", checkpoint, "-o", "out", "--json")
    assert code == 0, errors
    out = tmp_path / "out"
    contents = json.loads((out / "segments.json").read_text())
    assert json.loads(printed) == contents
    assert contents["classes"] == NAMES
    sizes = {"a": (70, 50), "below/a": (48, 48), "turned": (40, 60)}
    names = [result["mask"].removeprefix("masks/").removesuffix(".png") for result in contents["results"]]
    assert set(names) == set(sizes)
    rows = pyarrow.parquet.read_table(out / "rows").to_pylist()
    assert [row["mask"] for row in rows] == [result["mask"] for result in contents["results"]]
    predict = SegmentationPredictor.from_checkpoint(checkpoint)
    for name, result, row in zip(names, contents["results"], rows, strict=True):
        size = sizes[name]
        mask = Image.open(out / result["mask"])
        assert (mask.mode, mask.size) == ("P", size) == ("P", (result["width"], result["height"]))
        labels = np.asarray(mask)
        shares = {c["id"]: c["pixels"] for c in result["classes"]}
        assert shares == {k: int(n) for k, n in enumerate(np.bincount(labels.ravel())) if n}
        assert all(NAMES[c["id"]] == c["name"] for c in result["classes"])
        assert {c["id"]: c["share"] for c in result["classes"]} == dict(zip(row["classes"], row["shares"], strict=True))
        assert sum(row["shares"]) == pytest.approx(1, abs=1e-5)
        assert Image.open(out / result["overlay"]).width == size[0]
    below = next(result for result in contents["results"] if result["mask"] == "masks/below/a.png")
    expected = predict(images / "below" / "a.png").labels
    assert np.array_equal(np.asarray(Image.open(out / below["mask"])), expected)
    assert not list(out.rglob("*.part"))


def test_a_bad_file_does_not_affect_the_others(run: Here, checkpoint: Path, images: Path, tmp_path: Path) -> None:
    (images / "broken.jpg").write_bytes(b"no image")
    code, _, errors = run("segment", images, tmp_path / "nowhere.png", "--checkpoint", checkpoint, "-o", "out")
    assert code == 1
    contents = json.loads((tmp_path / "out" / "segments.json").read_text())
    assert len(contents["results"]) == 3
    assert [Path(error["file"]).name for error in contents["errors"]] == ["broken.jpg", "nowhere.png"]
    assert "broken.jpg cannot be read" in errors
    assert run("segment", images / "broken.jpg", "--checkpoint", checkpoint, "-o", "none")[0] == 2
    assert not list((tmp_path / "none").rglob("*.png"))


def test_an_image_that_the_network_cannot_process_does_not_affect_the_others(
    run: Here, checkpoint: Path, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = SegmentationPredictor.predict_batch

    def no_room(self: SegmentationPredictor, images: Any) -> Any:
        if any(image.shape == (3, 50, 70) for image in images):
            raise torch.OutOfMemoryError("no room for it")
        return whole(self, images)

    monkeypatch.setattr(SegmentationPredictor, "predict_batch", no_room)
    code, _, errors = run("segment", images, "--checkpoint", checkpoint, "-o", "out")
    assert code == 1
    assert "a.jpg: out of memory (no room for it)" in errors
    assert len(json.loads((tmp_path / "out" / "segments.json").read_text())["results"]) == 2


@pytest.mark.parametrize("device", ["cuda:99", "nonsense"])
def test_a_missing_device_is_reported(run: Here, checkpoint: Path, images: Path, device: str) -> None:
    code, _, errors = run("segment", images, "--checkpoint", checkpoint, "-o", "out", "--device", device)
    assert code == 2
    assert f"--device {device}: " in errors


def test_a_damaged_checkpoint_is_reported(run: Here, checkpoint: Path, images: Path, tmp_path: Path) -> None:
    content = checkpoint.read_bytes()
    (tmp_path / "torn.ckpt").write_bytes(content[: len(content) // 2])
    (tmp_path / "empty.ckpt").write_bytes(b"")
    torch.save([1, 2], tmp_path / "list.ckpt")
    for file in (tmp_path / "torn.ckpt", tmp_path / "empty.ckpt", tmp_path / "list.ckpt", images / "a.jpg"):
        code, _, errors = run("segment", images, "--checkpoint", file, "-o", "out")
        assert code == 2
        assert str(file) in errors
        assert "checkpoint" in errors or "not a dict with weights" in errors


def named(*inputs: object) -> list[str]:
    words = [*map(str, inputs)]
    return list(result_names(open_source(words), words))


def test_result_names_are_relative_to_the_inputs_and_unique(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Image.open(images / "a.jpg").save(images / "a.png")
    expected = ["a.jpg", "a.png", "below/a", "turned"]  # the suffix tells two images apart
    assert named(images) == named(f"{images}/") == named(images / "**") == expected
    assert named(images / "turned.jpg", images / "below") == ["turned", "a"]
    (images / "list.txt").write_text("turned.jpg\nbelow/a.png\nturned.jpg\n../images/a.jpg\n")
    assert named(images / "list.txt") == ["turned", "below/a", "turned", "images/a"]
    with tarfile.open(tmp_path / "shard-0.tar", "w") as archive:
        archive.add(images / "a.png", "x/../one.png")
    assert named(tmp_path / "shard-0.tar") == ["shard-0.tar/x/one"]
    monkeypatch.chdir(images)
    assert named(".") == ["a.jpg", "a.png", "below/a", "turned"]
    Image.open(images / "a.jpg").save(images / "below" / "a.jpg")
    with pytest.raises(InputError, match=r"images/a\.jpg and .*below/a\.jpg would have the same name"):
        named(images / "a.jpg", images / "below" / "a.jpg")


def test_a_repeated_command_continues_and_another_one_is_refused(
    run: Here, checkpoint: Path, images: Path, tmp_path: Path
) -> None:
    options = ("segment", images, "--checkpoint", checkpoint, "-o", "out", "--shard-size", 1)
    assert run(*options)[0] == 0
    out = tmp_path / "out"
    first = {file.relative_to(out): file.read_bytes() for file in out.rglob("*.*")}
    kept = (out / "rows" / "part-00000.parquet").stat().st_mtime_ns
    for name in ("rows/part-00001.parquet", "segments.json", "masks/below/a.png"):
        (out / name).unlink()
    assert run(*options)[0] == 0
    assert (out / "rows" / "part-00000.parquet").stat().st_mtime_ns == kept
    assert {file.relative_to(out): file.read_bytes() for file in out.rglob("*.*")} == first
    code, _, errors = run(*options, "--flip")
    assert (code, "'flip': True" in errors) == (2, True)
    Image.open(images / "a.jpg").save(images / "more.png")
    code, _, errors = run(*options)
    assert (code, "images was 3 and is now 4" in errors) == (2, True)
    assert run(*options, "--overwrite", "--no-overlays", "--format", "jsonl")[0] == 0
    assert not (out / "overlays").exists()
    assert len(list(out.glob("rows/part-*.jsonl"))) == len(list((out / "masks").rglob("*.png"))) == 4


def test_batches_give_the_results_of_single_images(checkpoint: Path, images: Path) -> None:
    predict = SegmentationPredictor.from_checkpoint(checkpoint, max_input_pixels=10_000)
    files = [*sorted(images.rglob("*.*")), images / "below" / "a.png", images / "a.jpg"]
    rows = [*chain(*inference.run(predict, inference.Files(files), batch_size=8, num_workers=0))]
    for file, row in zip(files, rows, strict=True):
        assert (row["found"].labels == predict(file).labels).mean() > 0.999  # sums in another order
        assert (row["input_width"], row["input_height"]) == (row["width"], row["height"])


def test_inference_options_reach_the_network(checkpoint: Path, images: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import argparse

    from glmix_cli import segment

    seen: list[Any] = []

    def note(cls: Any, path: Path, **options: Any) -> Any:
        seen.append(options)
        raise ValueError("enough")

    monkeypatch.setattr(SegmentationPredictor, "from_checkpoint", classmethod(note))
    parser = argparse.ArgumentParser()
    segment.add_arguments(parser)
    words = f"{images} --checkpoint {checkpoint} -o out --slide --window 40 --stride 20 --scales 0.5 1 --flip"
    for more in ("", " --resize 90 60", " --resize 0 0"):
        with pytest.raises(ValueError, match="enough"):
            segment.run(parser.parse_args((words + more).split()))
    assert seen[0]["how"] == Inference("slide", 40, 20, (0.5, 1.0), flip=True)
    assert "resize" not in seen[0]
    assert seen[1]["resize"] == (90, 60)
    assert seen[2]["resize"] is None
    with pytest.raises(ValueError, match="--resize takes LONGER SHORTER"):
        segment.run(parser.parse_args((words + " --resize 60 90").split()))


@pytest.mark.parametrize("suffix", [".npy", ".tif"])
def test_a_large_file_is_read_in_windows_and_its_mask_equals_that_of_the_whole_image(
    run: Here, checkpoint: Path, tmp_path: Path, suffix: str
) -> None:
    pixels = np.asarray(Image.effect_noise((150, 110), 90).convert("RGB").resize((300, 220)))
    Image.fromarray(pixels).save(tmp_path / "large.png")
    if suffix == ".npy":
        np.save(tmp_path / "large.npy", pixels)
    else:
        tifffile.imwrite(tmp_path / "large.tif", pixels, photometric="rgb", tile=(64, 64))
    options = ["--checkpoint", checkpoint, "--resize", 0, 0, "--window", 64, "--stride", 32, "--blend", "centre"]
    options += ["--max-input-pixels", 20_000]
    refused = run("segment", f"large{suffix}", *options[:2], "--resize", 64, 64, "--max-pixels", 100, "-o", "no")
    assert refused[0] == 2
    code, printed, errors = run("segment", f"large{suffix}", *options, "--max-pixels", 100, "-o", "windows", "--json")
    assert code == 0, errors
    assert "segmented in windows of 64 pixels" in errors
    (result,) = json.loads(printed)["results"]
    assert (result["mode"], result["mask"], result["overlay"]) == ("slide", "masks/large.tif", None)
    assert run("segment", "large.png", *options, "-o", "whole")[0] == 0
    with Image.open(tmp_path / "windows/masks/large.tif") as mask, Image.open("whole/masks/large.png") as expected:
        assert (np.asarray(mask) == np.asarray(expected)).mean() > 0.999
        counts = np.bincount(np.asarray(mask).ravel(), minlength=3)
    assert {one["id"]: one["pixels"] for one in result["classes"]} == {k: int(n) for k, n in enumerate(counts) if n}
    assert not list((tmp_path / "windows").rglob(".*.part"))


def test_a_checkpoint_of_another_task_raises_an_error(run: Here, images: Path, tmp_path: Path) -> None:
    from tests.runs import data

    trainer(tmp_path / "run", max_epochs=2).fit(classification(), data(train_count=4))
    file = next((tmp_path / "run" / "checkpoints").glob("*.ckpt"))
    code, _, errors = run("segment", images, "--checkpoint", file, "-o", "out")
    assert code == 2
    assert "contains a network for Classification, not for segmentation" in errors
    code, _, errors = run("segment", images, "--checkpoint", "nothing.ckpt", "-o", "out")
    assert code == 2
    assert "No checkpoint at nothing.ckpt" in errors


def test_segmentation_at_any_size_matches_the_resized_image() -> None:
    torch.manual_seed(0)
    network = torch.nn.Conv2d(3, 3, 1)
    predict = SegmentationPredictor(network, NAMES, (0.5,) * 3, (0.5,) * 3, resize=(64, 32))
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (50, 90, 3), dtype=np.uint8))
    labels = predict(image).labels
    assert labels.shape == (50, 90)
    assert labels.dtype == np.uint8
    whole = SegmentationPredictor(network, NAMES, (0.5,) * 3, (0.5,) * 3)(image).labels
    with torch.no_grad():
        pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1).float() / 255
        expected = network((pixels.unsqueeze(0) - 0.5) / 0.5)[0].argmax(0)
    assert np.array_equal(whole, expected.numpy())


def test_a_predictor_takes_files_arrays_and_images(images: Path) -> None:
    torch.manual_seed(0)
    predict = SegmentationPredictor(torch.nn.Conv2d(3, 3, 1), NAMES, (0.5,) * 3, (0.5,) * 3)
    found = predict(images / "turned.jpg")
    assert found.labels.shape == (60, 40)  # upright
    with Image.open(images / "turned.jpg") as stored:
        pixels = np.asarray(stored.convert("RGB"))
    assert np.array_equal(np.rot90(predict(pixels).labels, -1), found.labels)
    assert not found.in_windows
    assert sum(one["pixels"] for one in found.classes()) == 60 * 40
    assert found.mask().size == (40, 60)
    with pytest.raises(ValueError, match=r"uint8 \(H, W, 3\) or \(H, W\), got float64 \(5, 5, 3\)"):
        predict(np.zeros((5, 5, 3)))  # type: ignore[arg-type]
    with pytest.raises(FileNotFoundError):
        predict(images / "absent.png")


def test_an_overlay_tints_classes_and_names_them() -> None:
    image = Image.new("RGB", (120, 40), (100, 100, 100))
    labels = np.zeros((40, 120), np.uint8)
    labels[:, 60:] = 2
    picture = overlay(image, labels, NAMES)
    pixels = np.asarray(picture)
    assert picture.height > 40, "names stand below"
    assert (pixels[:40, :59] == 100).all(), "the background has no tint"
    assert (pixels[:40, 59] == 255).all(), "a line between classes"
    colour = np.array(palette_image(labels, NAMES).getpalette()[6:9])
    assert np.abs(pixels[20, 90] - (100 + colour) / 2).max() <= 1
    plain = overlay(image, np.zeros_like(labels), NAMES)
    assert plain.size == (120, 40)
