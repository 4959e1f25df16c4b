"""Tests of predict, segment, detect and explain on files of all kinds."""

import json
import os
import resource
import socket
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet
import pytest
import timm
import torch
from PIL import Image

from glmix.data.detection.datamodule import DetectionScenes
from glmix.data.scenes import SceneConfig
from glmix.data.segmentation.datamodule import SceneMaskData
from glmix.memory import is_out_of_memory
from glmix.tasks import Detection, DetectorConfig, OptimizerConfig, ScheduleConfig, Segmentation
from glmix.tasks.segmentation.predictor import SegmentationPredictor
from glmix_cli import main
from glmix_cli.printing import printable
from tests.processes import Command
from tests.runs import trainer

pytestmark = pytest.mark.skipif(os.name == "nt", reason="names and files that Windows does not have")

COMMANDS = ("predict", "segment", "detect", "explain")
SMALL = {"widths": (16, 16, 32, 32), "depths": (1, 1, 1, 1), "num_slots": 4}
C_LOCALE = {"PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[str]]:
    """{command: the arguments that specify its network}."""
    root = tmp_path_factory.mktemp("weights")
    torch.manual_seed(0)
    torch.save(timm.create_model("test_glnet", num_classes=4).state_dict(), root / "classifier.pth")
    classifier = ["--model", "test_glnet", "--checkpoint", str(root / "classifier.pth")]
    schedule, optimizer = ScheduleConfig(warmup_epochs=0), OptimizerConfig(lr=1e-3, base_batch=None)
    scenes = SceneConfig(size=48, objects=(2, 3))
    decoder = {"decoder_pyramid_channels": 32, "decoder_segmentation_channels": 32}
    segmentation = Segmentation(
        model="test_glnet",
        model_args=SMALL,
        decoder="fpn",
        decoder_args=decoder,
        schedule=schedule,
        optimizer=optimizer,
    )
    trainer(root / "masks", max_epochs=1).fit(
        segmentation, SceneMaskData(scenes, train_count=2, val_count=1, batch_size=2)
    )
    detector = DetectorConfig(
        kind="mask_rcnn",
        frozen_statistics=False,
        channels=16,
        box_features=16,
        min_size=64,
        max_size=96,
        max_detections=4,
    )
    detection = Detection(
        model="test_glnet", model_args=SMALL, detector=detector, schedule=schedule, optimizer=optimizer
    )
    trainer(root / "boxes", max_epochs=1).fit(
        detection, DetectionScenes(scenes, train_count=2, val_count=1, batch_size=2)
    )
    checkpoints = {name: next((root / name / "checkpoints").glob("step-*.ckpt")) for name in ("masks", "boxes")}
    return {
        "predict": classifier,
        "segment": ["--checkpoint", str(checkpoints["masks"]), "--resize", "0", "0", "-o", "out"],
        "detect": ["--checkpoint", str(checkpoints["boxes"]), "--score", "0", "-o", "out"],
        "explain": [*classifier, "--size", "32", "--blocks", "0", "-o", "out"],
    }


@dataclass(frozen=True)
class Done:
    code: int
    out: str
    err: str

    @property
    def json(self) -> dict[str, Any]:
        printed: dict[str, Any] = json.loads(self.out)
        return printed

    @property
    def files(self) -> list[str]:
        """Return the names of the processed images."""
        entries = self.json.get("results") or self.json.get("images") or []
        return [Path(entry.get("file") or entry["file_name"]).name for entry in entries]

    @property
    def failed(self) -> dict[str, str]:
        return {Path(entry["file"]).name: entry["error"] for entry in self.json["errors"]}


Run = Callable[..., Done]


@pytest.fixture
def here(
    tmp_path: Path,
    weights: dict[str, list[str]],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Run:
    """Run a command in this process, which avoids the import time of a new process."""
    monkeypatch.chdir(tmp_path)

    def run(command: str, *arguments: object) -> Done:
        code = main([command, *weights[command], *map(_text, arguments)])
        return Done(code, *capsys.readouterr())

    return run


def _text(argument: object) -> str:
    return os.fspath(argument) if isinstance(argument, Path) else str(argument)


def picture(path: Path, size: tuple[int, int] = (48, 40), **options: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.effect_noise(size, 60).convert("RGB").save(path, **options)
    return path


@pytest.mark.parametrize("command", COMMANDS)
def test_all_kinds_of_files_are_processed_or_reported(here: Run, tmp_path: Path, command: str) -> None:
    """Readable images are processed, and all other files are reported once with a reason."""
    folder = tmp_path / "images"
    longest = ["x" * 250 + ".png", "x" * 249 + "y.png", "\N{CAT FACE}" * 62 + "abc.png"]  # 254, 254 and 255 bytes
    odd = ["a.png", "two\nlines.png", "\x1b[31mred.png", os.fsdecode(b"caf\xe9.png")]
    for name in odd[:3]:
        picture(folder / name)
    for name in (*longest, odd[3]):
        (folder / name).write_bytes((folder / "a.png").read_bytes())
    (folder / "photo.heic").write_bytes(b"\0\0\0\x18ftypheic")
    (folder / "drawing.SVG").write_text("<svg/>")
    (folder / "notes.txt").write_text("no image")
    (folder / "torn.jpg").write_bytes(b"\xff\xd8\xff\xe0")
    picture(folder / "wide.png", (100_000, 10))
    picture(folder / "large.png", (900, 900))
    turned = Image.Exif()
    turned[0x0112] = 6
    picture(folder / "turned.jpg", (900, 901), exif=turned)
    os.mkfifo(folder / "pipe.png")
    os.mkfifo(tmp_path / "given.png")
    server = socket.socket(socket.AF_UNIX)
    server.bind(os.path.relpath(tmp_path / "socket.png"))
    bounds = [] if command == "predict" else ["--max-input-pixels", 40_000]
    given = [folder, tmp_path / "given.png", tmp_path / "socket.png", tmp_path / "absent.png", tmp_path / ("z" * 300)]
    result = here(command, *given, "--max-pixels", 800_000, *bounds, "--json")
    server.close()
    assert result.code == 1, result.err
    failed = result.failed
    named = {"photo.heic", "drawing.SVG", "torn.jpg", "wide.png", "large.png", "turned.jpg", "pipe.png"}
    named |= {"given.png", "socket.png", "absent.png", "z" * 300}
    reduced = command in ("predict", "explain")
    if reduced:
        named -= {"turned.jpg"}  # a JPEG is decoded at a smaller size
    assert set(failed) == named
    assert sorted(result.files) == sorted([*odd, *longest] + ["turned.jpg"] * reduced)
    assert "900 x 900" in failed["large.png"]
    assert "800,000" in failed["large.png"]
    assert "100000 x 10" in failed["wide.png"]
    assert all("not a regular file" in failed[name] for name in ("pipe.png", "given.png", "socket.png"))
    assert ".heic" in failed["photo.heic"]
    assert all(name in result.err for name in named)
    assert all(char.isprintable() for char in result.err.replace("\n", ""))
    if command != "predict":
        written = [name for _, _, names in os.walk("out") for name in names]
        assert len([name for name in written if name.endswith(".png")]) == len(result.files) * (
            2 if command == "segment" else 1
        )
        assert not [name for name in written if name.endswith(".part")]


@pytest.mark.parametrize("command", COMMANDS)
def test_an_extreme_aspect_ratio_is_limited_after_resizing(here: Run, tmp_path: Path, command: str) -> None:
    """A small file that would have millions of pixels after resizing is rejected, or processed without resizing."""
    files = picture(tmp_path / "thin.png", (20_000, 8)), picture(tmp_path / "a.png")
    result = here(command, *files, "--max-pixels", 200_000, "--json")
    if command in ("predict", "explain"):
        assert result.code == 1
        assert result.files == ["a.png"]
        assert "20000 x 8" in result.failed["thin.png"]
    else:
        assert result.code == 0, result.err
        assert result.files == ["thin.png", "a.png"]


@pytest.mark.parametrize("command", COMMANDS)
def test_the_limit_can_be_raised(here: Run, tmp_path: Path, command: str) -> None:
    file = picture(tmp_path / "a.png", (400, 300))
    assert here(command, file, "--max-pixels", 119_999, "--json").code == 2
    again = ["--overwrite"] if command in ("segment", "detect") else []
    result = here(command, file, "--max-pixels", 120_000, "--json", *again)
    assert (result.code, result.files) == (0, ["a.png"])
    with pytest.raises(SystemExit) as stopped:
        here(command, file, "--max-pixels", "0")
    assert stopped.value.code == 2


def test_a_large_image_is_segmented_in_windows_with_a_message(here: Run, tmp_path: Path) -> None:
    file = picture(tmp_path / "large.png", (300, 200))
    whole = here("segment", file, "--json", "--max-input-pixels", 60_000)
    assert whole.code == 0, whole.err
    assert whole.json["results"][0]["mode"] == "whole"
    assert whole.err == ""
    asked = here("segment", file, "--json", "--overwrite", "--slide", "--window", 64)
    expected = np.asarray(Image.open("out/masks/large.png"))
    result = here("segment", file, "--json", "--overwrite", "--max-input-pixels", 59_999, "--window", 64)
    assert result.json["results"][0]["mode"] == asked.json["results"][0]["mode"] == "slide"
    assert "large.png" in result.err
    assert "windows of 64 pixels" in result.err
    assert (np.asarray(Image.open("out/masks/large.png")) == expected).mean() > 0.999  # sums are not divided


def test_a_large_image_is_downscaled_for_the_detector_but_its_boxes_and_masks_are_not(
    here: Run, tmp_path: Path
) -> None:
    from glmix.data.detection.rle import decode_segmentation

    file = picture(tmp_path / "large.png", (400, 300))
    result = here("detect", file, "--json", "--max-input-pixels", 10_000)
    assert result.code == 0, result.err
    assert "large.png: downscaled to 10,000 pixels" in result.err
    assert (result.json["images"][0]["width"], result.json["images"][0]["height"]) == (400, 300)
    assert result.json["annotations"]
    for item in result.json["annotations"]:
        assert decode_segmentation(item["segmentation"], 300, 400).sum() == item["area"]
    assert max(x + w for x, _, w, _ in (item["bbox"] for item in result.json["annotations"])) > 150
    assert Image.open("out/overlays/large.png").width < 400


@pytest.mark.slow  # inference/test_pipeline.py::test_exhausted_memory_divides_a_batch raises the errors itself
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="limits of memory are Linux's")
def test_running_out_of_memory_does_not_affect_the_other_images(tmp_path: Path, weights: dict[str, list[str]]) -> None:
    files = [picture(tmp_path / "a.png"), tmp_path / "large.png", picture(tmp_path / "z.png")]
    Image.new("RGB", (7000, 7000)).save(files[1])
    words = ["-m", "glmix_cli", "segment", *weights["segment"], *map(str, files), "--max-input-pixels", "100000000"]
    limit = 5 * 2**30
    result = subprocess.run(
        [sys.executable, *words, "--json"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (limit, limit)),
        check=False,
    )
    assert result.returncode == 1, result.stderr
    printed = json.loads(result.stdout)
    assert [Path(entry["file"]).name for entry in printed["results"]] == ["a.png", "z.png"]
    assert [Path(entry["file"]).name for entry in printed["errors"]] == ["large.png"]
    assert "out of memory" in printed["errors"][0]["error"]


def test_out_of_memory_errors_are_recognised() -> None:
    with pytest.raises(RuntimeError) as raised:
        torch.empty(2**55)
    assert is_out_of_memory(raised.value)
    with pytest.raises(MemoryError) as error:
        np.empty(2**55)
    assert is_out_of_memory(error.value)
    assert is_out_of_memory(torch.OutOfMemoryError("CUDA out of memory"))
    with pytest.raises(RuntimeError) as raised:
        torch.ones(2) @ torch.ones(3)
    assert not is_out_of_memory(raised.value)


def test_a_bug_keeps_its_traceback_and_the_finished_results(
    here: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = SegmentationPredictor.predict_batch

    def wrong(self: SegmentationPredictor, images: Any) -> Any:
        if any(image.shape[2] == 33 for image in images):
            raise ValueError("zip() argument 2 is shorter than argument 1")
        return whole(self, images)

    files = picture(tmp_path / "a.png"), picture(tmp_path / "b.png", (33, 33))
    with monkeypatch.context() as patched:
        patched.setattr(SegmentationPredictor, "predict_batch", wrong)
        with pytest.raises(ValueError, match="zip"):
            here("segment", *files, "--json", "--shard-size", 1, "--batch-size", 1)
    (row,) = pyarrow.parquet.read_table(tmp_path / "out" / "rows").to_pylist()
    assert Path(row["key"]).name == "a.png"
    assert here("segment", *files, "--json", "--shard-size", 1).files == ["a.png", "b.png"]


def test_any_file_name_works_in_the_c_locale(tmp_path: Path, weights: dict[str, list[str]]) -> None:
    name = "\N{CAT FACE} \x1b[31m.png"
    picture(tmp_path / name)
    # one new process for all commands, as Python decodes its arguments in the locale when it starts
    code = (
        "import json, sys, glmix_cli\n"
        "name, commands = sys.argv[1:]\n"
        "sys.exit(max(glmix_cli.main([words[0], name, *words[1:]]) for words in json.loads(commands)))"
    )
    words = [[command, *weights[command]] + ["-o", f"out/{command}"] * (command != "predict") for command in COMMANDS]
    result = subprocess.run(
        [sys.executable, "-c", code, name, json.dumps(words)],
        capture_output=True,
        cwd=tmp_path,
        timeout=300,
        env={**os.environ, **C_LOCALE, "LC_ALL": "C"},
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert result.stderr == b""
    assert b"\x1b" not in result.stdout
    for folder in ("segment/masks", "explain"):
        assert any("\N{CAT FACE}" in file for file in os.listdir(tmp_path / "out" / folder))


def test_file_names_are_escaped_in_text_and_exact_in_json(here: Run, tmp_path: Path) -> None:
    name = "\x1b[31mtwo\nlines.png"
    picture(tmp_path / name)
    told = here("predict", name)
    assert told.out.splitlines()[0].startswith(r"\x1b[31mtwo\nlines.png  (")
    assert here("predict", name, "--json").json["results"][0]["file"] == name
    failed = here("segment", name, "--checkpoint", "\x1b[31m.ckpt")
    assert failed.code == 2
    assert "\x1b" not in failed.err
    assert printable("Größe \N{CAT FACE}") == "Größe \N{CAT FACE}"


@pytest.mark.parametrize("command", COMMANDS)
def test_a_closed_pipe_is_not_an_error(tmp_path: Path, weights: dict[str, list[str]], command: str) -> None:
    files = [picture(tmp_path / f"{n}.png") for n in range(2)]
    process = Command(command, *weights[command], *files, "--json", cwd=tmp_path)
    process.stdout.close()
    _, errors = process.communicate()
    assert (process.returncode, errors) == (141, "")
