"""Tests of `glmix export`."""

import json

import numpy as np
import pytest
import timm
import torch
from PIL import Image

import glmix as library
from tests.deploy.models import FEW, ONE

pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")


@pytest.fixture
def folder(tmp_path):
    """A model folder as written by `glmix demo`."""
    torch.manual_seed(0)
    model = timm.create_model("test_glnet", num_classes=4, **FEW, pos_conv=False, mlp_conv=False)
    model.pretrained_cfg.update(input_size=(3, 64, 64), label_names=["a", "b", "c", "d"])
    library.save_model(model, tmp_path / "model")
    return tmp_path / "model"


@pytest.fixture
def images(tmp_path):
    for index in range(6):
        (tmp_path / "images" / str(index % 2)).mkdir(parents=True, exist_ok=True)
        Image.effect_noise((70 + index, 90), 60).convert("RGB").save(tmp_path / f"images/{index % 2}/{index}.png")
    return tmp_path / "images"


def test_a_saved_model_is_exported_to_int8_with_metadata(glmix, folder, images, tmp_path):
    import onnxruntime

    (images / "broken.png").write_bytes(b"no image")
    arguments = ["--preprocess", "--int8", "--calibrate", images, "-o", "model.onnx", "--json"]
    result = glmix("export", "--model", f"local-dir:{folder}", *arguments)
    assert result.returncode == 1, result.stderr  # a calibration image could not be read
    assert "broken.png" in result.stderr
    told = json.loads(result.stdout)
    assert told["files"] == ["model.onnx"]
    assert told["outputs"] == ["logits"]
    assert told["smallest"] == 32
    assert len(told["checks"]) == 10
    assert told["int8"]["images"] == 3
    assert 0 <= told["int8"]["agreement"] <= 1
    assert [error["file"].endswith("broken.png") for error in told["errors"]] == [True]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["images", "model", "model.onnx"]
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx")
    (logits,) = session.run(None, {"image": np.zeros((2, 50, 70, 3), np.uint8)})
    assert logits.shape == (2, 4)

    again = glmix("export", "--model", f"local-dir:{folder}", "-o", "model.onnx")
    assert again.returncode == 2
    assert "model.onnx already exists" in again.stderr


def test_the_report_of_a_pt2_with_slots_is_printed_as_text(glmix, tmp_path):
    model = timm.create_model("test_glnet", **ONE)
    library.save_model(model, tmp_path / "small")
    result = glmix("export", "--model", "local-dir:small", "--outputs", "slots", "-o", "slots.pt2")
    assert result.returncode == 0, result.stderr
    assert "slots.pt2: " in result.stdout
    assert "any batch size, height and width from 32 x 32 pixels" in result.stdout
    assert "stages.0.blocks.0" in result.stdout
    assert "(tolerance 1e-04)" in result.stdout


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["-o", "m.onnx"], "--checkpoint, --model local-dir:FOLDER, or --model NAME with --untrained"),
        (["--model", "test_glnet", "-o", "m.onnx"], "No weights were given for"),
        (["--model", "resnet18", "--untrained", "-o", "m.onnx"], "resnet18 is not a GLNet model"),
        (["--model", "test_glnet", "--untrained", "-o", "m.tflite"], "suffix of m.tflite is not one of"),
        (["--model", "test_glnet", "--untrained", "-o", "m.onnx", "--int8"], "--int8 and --calibrate must be used"),
        (["--model", "test_glnet", "--untrained", "-o", "m.onnx", "--int8", "--calibrate", "no"], "no is not a folder"),
        (["--model", "test_glnet", "--untrained", "-o", "no/m.onnx"], "no is not a folder, so m.onnx cannot"),
        (["--model", "test_glnet", "--untrained", "-o", "m.onnx", "--compile"], "Only pt2 can be compiled"),
        (["--model", "test_glnet", "--untrained", "-o", "m.onnx", "--format", "tensorrt"], "invalid choice"),
    ],
)
def test_invalid_exports_raise_an_error(arguments, words, capsys, tmp_path, monkeypatch):
    from glmix_cli import main

    monkeypatch.chdir(tmp_path)
    try:
        code = main(["export", *arguments])
    except SystemExit as exit_:  # argparse ends the process
        code = exit_.code
    assert code == 2
    assert words in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("library", "name", "words"),
    [("openvino", "m.xml", "pip install openvino"), ("onnxscript", "m.onnx", "pip install 'glmix[export]'")],
)
def test_a_missing_library_is_reported_with_the_install_command(library, name, words, capsys, tmp_path, monkeypatch):
    import sys

    from glmix_cli import main

    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, library, None)
    assert main(["export", "--model", "test_glnet", "--untrained", "-o", name]) == 2
    assert words in capsys.readouterr().err
