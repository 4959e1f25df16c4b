"""The demo through the command line: its files, its advice and its errors."""

import json
import os

import numpy as np
import pytest
import timm
import torch
from PIL import Image

from glmix.data.scenes import SceneConfig
from glmix.demo.run import DemoConfig, run_demo
from glmix.training.short_training import Recipe
from glmix_cli import main
from tests.processes import WITHOUT_COMPILER, Command

TINY = ("--epochs", "1", "--scenes", "64")


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    """Run a tiny demo without a required accuracy, and return its folder and its output."""
    folder = tmp_path_factory.mktemp("demo")
    process = Command("demo", *TINY, "--at-least", "0", cwd=folder)
    output, errors = process.communicate()
    assert process.returncode == 0, errors
    return folder, output, errors


def test_all_listed_files_are_written(demo):
    folder, output, errors = demo
    out = folder / "out" / "demo"
    written = {"model", "curve.png", "predictions.png", "images", "masks.png", "explorer.html", "result.json"}
    assert {path.name for path in out.iterdir()} == written
    assert "A held-out scene" in (out / "explorer.html").read_text()
    for name in ("curve.png", "predictions.png", "masks.png"):
        with Image.open(out / name) as picture:
            assert min(picture.size) > 200
            assert np.asarray(picture.convert("RGB")).std() > 20
    for name in os.listdir(out):
        assert f"  {name} " in output
    for name in ("chance", "colour histogram", "3x3 patches", "this network"):
        assert f"  {name} " in output
    assert "epoch 1/1" in errors
    result_json = json.loads((out / "result.json").read_text())
    assert result_json["held_out"] == 12
    assert len(result_json["epochs"]) == 1


def test_printed_next_commands_work(demo):
    """Run the printed commands; the model predicts class names."""
    folder, output, _ = demo
    advice = [line.strip() for line in output.splitlines() if line.startswith("  glmix ")]
    predict = advice[0].split()
    assert predict[:2] == ["glmix", "predict"]
    process = Command(*predict[1:], "--json", cwd=folder)
    output, errors = process.communicate()
    assert process.returncode == 0, errors
    found = json.loads(output)["results"]
    assert len(found) == 12
    assert {p["label"] for result in found for p in result["predictions"]} <= set(SceneConfig().class_names)


def test_evaluated_model_is_the_saved_model(demo):
    folder, *_ = demo
    model = timm.create_model(f"local-dir:{folder}/out/demo/model", pretrained=True).eval()
    transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model))
    right = 0
    files = sorted((folder / "out/demo/images").iterdir())
    for file in files:
        with torch.inference_mode(), Image.open(file) as image:
            predicted = model(transform(image)[None]).argmax(1).item()
        right += SceneConfig().class_names[predicted] == file.stem[3:]
    assert right / len(files) == pytest.approx(json.loads((folder / "out/demo/result.json").read_text())["accuracy"])


def test_low_accuracy_fails_the_command(tmp_path):
    process = Command("demo", tmp_path / "here", *TINY, code=WITHOUT_COMPILER)
    printed, errors = process.communicate()
    assert process.returncode == 2
    assert "below --at-least 95 %" in errors
    assert "Next" not in printed
    assert (tmp_path / "here" / "curve.png").exists()  # written before the failure


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--scenes", "10"], "train_count must be at least 64, one batch, got 10"),
        (["--epochs", "0"], "epochs must be at least 1, got 0"),
        (["--threads", "0"], "--threads must be at least 1, got 0"),
        (["--seed", "-1"], "seed must be 0 or more, got -1"),
    ],
)
def test_invalid_options_are_reported_first(tmp_path, capsys, arguments, words):
    assert main(["demo", str(tmp_path / "out"), *arguments]) == 2
    assert words in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_existing_model_of_another_origin_is_kept(tmp_path):
    (tmp_path / "model").mkdir()
    with pytest.raises(ValueError, match="not from a completed demo"):
        run_demo(tmp_path, DemoConfig(64, Recipe(epochs=1)))


def test_failing_artefact_fails_the_demo(tmp_path):
    code = (
        "from pathlib import Path\n"
        "from glmix.demo import run\n"
        "def broken(demo, path):\n"
        "    raise OSError(f'no room for {path.name}')\n"
        "config = run.DemoConfig(64, run.Recipe(epochs=1))\n"
        "run.run_demo(Path('here'), config, artefacts={'page.html': ('a page', broken)})"
    )
    process = Command(cwd=tmp_path, code=f"{WITHOUT_COMPILER}\n{code}")
    assert "OSError: no room for page.html" in process.communicate()[1]
    assert process.returncode == 1


@pytest.mark.slow
def test_demo_reaches_95_percent(tmp_path):
    """Run the complete demo as `make demo` does; the command fails below 95 %."""
    process = Command("demo", "out", "--seed", "1", cwd=tmp_path)
    _, errors = process.communicate()
    assert process.returncode == 0, errors
    accuracy = json.loads((tmp_path / "out" / "result.json").read_text())["accuracy"]
    assert accuracy >= 0.95
