"""The command `glmix scenes`."""

import argparse
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from torchvision.datasets import ImageFolder

from glmix.data.scenes import SHAPES, TEXTURES, SceneConfig, draw_scene
from glmix_cli import scenes


def parse(*words: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="glmix scenes")
    scenes.add_arguments(parser)
    return parser.parse_args(words)


def run(*words: object) -> int:
    return scenes.run(parse(*map(str, words)))


def test_default_options_are_those_of_scene_config(tmp_path: Path) -> None:
    assert scenes._config(parse(str(tmp_path), "--layout", "coco")) == SceneConfig()
    assert scenes._config(parse(str(tmp_path), "--layout", "imagefolder")) == SceneConfig(objects=(1, 1))


def test_all_options_are_passed_to_the_configuration() -> None:
    words = (
        "--sheet x.png --size 48 --seed 3 --objects 2 4 --shapes ring square --textures dots zigzag "
        "--labelling latin --camouflage 0.25 --noise 0.1"
    )
    assert scenes._config(parse(*words.split(" "))) == SceneConfig(
        size=48,
        seed=3,
        objects=(2, 4),
        shapes=("ring", "square"),
        textures=("dots", "zigzag"),
        labelling="latin",
        camouflage=0.25,
        noise=0.1,
    )
    assert scenes._config(parse("--objects", "2")).objects == (2, 2)


def test_imagefolder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    assert run(out, "--layout", "imagefolder", "--count-train", 50, "--count-val", 40, "--size", 32) == 0
    assert len(ImageFolder(out / "train")) == 50
    assert len(ImageFolder(out / "val")) == 40
    printed = capsys.readouterr()
    assert "50 training and 40 validation images" in printed.out
    assert "90/90" in printed.err, "a progress bar"


@pytest.mark.parametrize(
    ("layout", "folder"), [("segmentation", "annotations"), ("voc", "Annotations"), ("coco", "annotations")]
)
def test_other_layouts(layout: str, folder: str, tmp_path: Path) -> None:
    assert run(tmp_path / "out", "--layout", layout, "--count-train", 3, "--count-val", 2, "--size", 16) == 0
    assert (tmp_path / "out" / folder).is_dir()


def test_contact_sheet(tmp_path: Path) -> None:
    assert run("--sheet", tmp_path / "new" / "sheet.png", "--size", 32) == 0
    sheet = np.asarray(Image.open(tmp_path / "new" / "sheet.png"))
    first = draw_scene(SceneConfig(size=32), "train", 0).image
    assert np.array_equal(sheet[8 : 8 + 128 : 4, 8 : 8 + 128 : 4], first)


def test_report_has_time_and_baselines(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--report", "--count-train", 60, "--count-val", 30, "--size", 24) == 0
    printed = capsys.readouterr().out
    for expected in ("ms per image of 24 x 24", "6 classes", "chance", "16.7%", "colour histogram", "3x3 patches"):
        assert expected in printed


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "Nothing to do"),
        (["out"], "OUT and --layout must be given together"),
        (["--layout", "coco"], "Nothing to do"),
        (["out", "--layout", "imagefolder", "--objects", "2"], "layout imagefolder has one class per image"),
        (["out", "--layout", "coco", "--count-val", "0"], "at least one scene"),
        (["--sheet", "x.png", "--shapes", "blob"], "shapes has no 'blob'"),
        (["--sheet", "x.png", "--objects", "1", "2", "3"], "objects must be two numbers"),
        (["--report", "--objects", "2"], "exactly one object"),
        (["--report", "--count-val", "0"], "--count-train and --count-val must be at least 1"),
    ],
)
def test_invalid_arguments_are_errors_and_nothing_is_written(
    words: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=message):
        run(*words)
    assert list(tmp_path.iterdir()) == []


def test_help_lists_all_shapes_and_textures() -> None:
    parser = argparse.ArgumentParser()
    scenes.add_arguments(parser)
    assert all(name in parser.format_help() for name in [*SHAPES, *TEXTURES])


def test_help_does_not_import_torch_numpy_and_glmix() -> None:
    code = (
        "import argparse, sys; from glmix_cli import scenes; "
        "parser = argparse.ArgumentParser(); scenes.add_arguments(parser); parser.format_help(); "
        "print(sorted({'torch', 'numpy', 'glmix'} & set(sys.modules)))"
    )
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert printed.strip() == "[]"
