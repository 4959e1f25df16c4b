"""The demo, through the real command: what it writes, that what it writes is of use, and that it fails aloud."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
import timm
import torch
from PIL import Image

from glmix.data.scenes import SceneConfig
from glmix.demo.run import DemoConfig, run_demo
from glmix.training.short_training import Recipe
from glmix_cli import main

TINY = ("--epochs", "1", "--scenes", "64")


def glmix(*arguments: object, cwd) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "glmix_cli", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, timeout=300)


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    """One tiny demo, asked for no accuracy: (its folder, what it said)."""
    folder = tmp_path_factory.mktemp("demo")
    result = glmix("demo", *TINY, "--at-least", "0", cwd=folder)
    assert result.returncode == 0, result.stderr
    return folder, result


def test_it_writes_what_it_says(demo):
    folder, result = demo
    out = folder / "out" / "demo"
    written = {"model", "curve.png", "predictions.png", "images", "masks.png", "explorer.html", "result.json"}
    assert {path.name for path in out.iterdir()} == written
    assert "A held-out scene" in (out / "explorer.html").read_text()
    for name in ("curve.png", "predictions.png", "masks.png"):
        with Image.open(out / name) as picture:
            assert min(picture.size) > 200
            assert np.asarray(picture.convert("RGB")).std() > 20
    for name in os.listdir(out):
        assert f"  {name} " in result.stdout
    for name in ("chance", "colour histogram", "3x3 patches", "this network"):
        assert f"  {name} " in result.stdout
    assert "epoch 1/1" in result.stderr
    told = json.loads((out / "result.json").read_text())
    assert told["held_out"] == 12
    assert len(told["epochs"]) == 1


def test_its_advice_can_be_followed(demo):
    """The model is used as the last lines say, and knows its classes by name."""
    folder, result = demo
    advice = [line.strip() for line in result.stdout.splitlines() if line.startswith("  glmix ")]
    predict = advice[0].split()
    assert predict[:2] == ["glmix", "predict"]
    predicted = glmix(*predict[1:], "--json", cwd=folder)
    assert predicted.returncode == 0, predicted.stderr
    found = json.loads(predicted.stdout)["results"]
    assert len(found) == 12
    assert {p["label"] for result in found for p in result["predictions"]} <= set(SceneConfig().class_names)


def test_the_saved_model_is_the_one_that_is_judged(demo):
    folder, _ = demo
    model = timm.create_model(f"local-dir:{folder}/out/demo/model", pretrained=True).eval()
    transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model))
    right = 0
    files = sorted((folder / "out/demo/images").iterdir())
    for file in files:
        with torch.inference_mode(), Image.open(file) as image:
            predicted = model(transform(image)[None]).argmax(1).item()
        right += SceneConfig().class_names[predicted] == file.stem[3:]
    assert right / len(files) == pytest.approx(json.loads((folder / "out/demo/result.json").read_text())["accuracy"])


@pytest.fixture
def without_baselines(monkeypatch):
    """They take a second or two, and one demo with them is enough."""
    monkeypatch.setattr("glmix.demo.run.baseline_accuracies", lambda train, test: {})


def test_too_low_an_accuracy_fails_the_command(tmp_path, capsys, without_baselines):
    assert main(["demo", str(tmp_path / "here"), *TINY]) == 2
    said = capsys.readouterr()
    assert "below --at-least 95 %" in said.err
    assert "Next" not in said.out
    assert (tmp_path / "here" / "curve.png").exists()  # to see why


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--scenes", "10"], "train_count must be at least 64, one batch, got 10"),
        (["--epochs", "0"], "epochs must be at least 1, got 0"),
        (["--threads", "0"], "--threads must be at least 1, got 0"),
        (["--seed", "-1"], "seed must be 0 or more, got -1"),
    ],
)
def test_nonsense_is_refused_at_once(tmp_path, capsys, arguments, words):
    assert main(["demo", str(tmp_path / "out"), *arguments]) == 2
    assert words in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_model_that_is_no_demos_is_left_alone(tmp_path):
    (tmp_path / "model").mkdir()
    with pytest.raises(ValueError, match="not from a completed demo"):
        run_demo(tmp_path, DemoConfig(64, Recipe(epochs=1)))


def test_an_artefact_that_fails_fails_the_demo(tmp_path, without_baselines):
    def broken(demo, path):
        raise OSError(f"no room for {path.name}")

    config = DemoConfig(64, Recipe(epochs=1))
    with pytest.raises(OSError, match=r"no room for page\.html"):
        run_demo(tmp_path, config, artefacts={"page.html": ("a page", broken)})


@pytest.mark.slow
def test_the_demo_learns(tmp_path):
    """The whole of it, as `make demo` runs it: at least 95 %, or the command fails."""
    result = glmix("demo", "out", "--seed", "1", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    accuracy = json.loads((tmp_path / "out" / "result.json").read_text())["accuracy"]
    assert accuracy >= 0.95
