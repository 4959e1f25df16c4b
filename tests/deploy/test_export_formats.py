"""Slow export tests: all formats, variants and options."""

import shutil
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import timm
import torch

from glmix.compat import cpu_supports_bfloat16
from glmix.deploy import Calibration, export_model, load_exported
from glmix.deploy.export.check import mean_error
from glmix.deploy.export.graph import Deployed, capture
from glmix.models import MODEL_NAMES
from tests.deploy.models import SIZES, close, make, normalised, page_blocks, pixels

pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")
pytestmark = pytest.mark.slow


def test_the_documented_export_code_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (block,) = page_blocks()[3:]
    exec(block, {})
    assert capsys.readouterr().out.startswith("['stage1', 'stage2', 'stage3'] 33 ")


@pytest.mark.parametrize("outputs", ["classes", "features", "slots"])
@pytest.mark.parametrize("preprocess", ["none", "uint8"])
def test_openvino_agrees_with_the_model_after_other_sizes(tmp_path, outputs, preprocess):
    pytest.importorskip("openvino")
    report = export_model(make(), tmp_path / "model.xml", outputs=outputs, preprocess=preprocess)
    assert [file.name for file in report.files] == ["model.xml", "model.bin"]
    assert sorted(file.name for file in tmp_path.iterdir()) == ["model.bin", "model.xml"]
    assert report.smallest == 33
    run = load_exported(report.files[0], threads=1)
    assert run.about["outputs"] == outputs
    deployed = Deployed(make(), outputs, preprocess)
    inputs = [deployed.example(batch, *size) for size in SIZES for batch in (1, 2)] * 2
    with torch.no_grad():
        expected = [deployed(images) for images in inputs]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda images: run(images.numpy()), inputs))
    for arrays, tensors in zip(found, expected, strict=True):
        for array, tensor in zip(arrays.values(), tensors, strict=True):
            close(array, tensor)
    half = load_exported(report.files[0], threads=1, bfloat16=True)(inputs[0].numpy())
    for array, exact in zip(half.values(), found[0].values(), strict=True):
        assert mean_error(array, exact) < 0.05
        assert not (cpu_supports_bfloat16() and np.array_equal(array, exact))
    with pytest.raises(
        ValueError, match="input shape of this file must be at least"
    ):  # one pixel in the last stage, after which OpenVINO computes others wrong
        run(deployed.example(1, 32, 32).numpy())


def test_a_compiled_file_agrees_with_the_model_in_many_threads(tmp_path):
    if shutil.which("g++") is None:
        pytest.skip("compiling needs g++")
    model = make()
    report = export_model(model, tmp_path / "model.pt2", compiled=True, preprocess="uint8")
    with pytest.raises(ValueError, match="contains machine code: load it with trusted=True"):
        load_exported(report.files[0])
    run = load_exported(report.files[0], trusted=True)
    assert run.about["class_names"] == [f"class {index}" for index in range(5)]
    inputs = [pixels(batch, *size) for size in SIZES for batch in (1, 3)] * 2
    with torch.no_grad():
        expected = [model(normalised(images)) for images in inputs]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda images: run(images.permute(0, 2, 3, 1).contiguous().numpy()), inputs))
    for arrays, logits in zip(found, expected, strict=True):
        close(arrays["logits"], logits)


@pytest.mark.parametrize("suffix", [".onnx", ".xml"])
@pytest.mark.parametrize("outputs", ["classes", "features"])
def test_int8_in_every_format(tmp_path, suffix, outputs):
    if suffix == ".xml":
        pytest.importorskip("openvino")
    model = make()
    deployed = Deployed(model, preprocess="uint8")
    images = deployed.example(32, 96, 96).permute(0, 3, 1, 2)
    report = export_model(model, tmp_path / f"model{suffix}", outputs=outputs, calibration=Calibration(images, images))
    assert report.int8 is not None
    assert report.int8.error < 0.2
    assert (report.int8.agreement is None) == (outputs == "features")
    plain = sum(p.numel() for p in model.parameters()) * 4
    assert sum(file.stat().st_size for file in report.files) < plain


@pytest.mark.parametrize("name", MODEL_NAMES)
def test_every_variant_exports(tmp_path, name):
    report = export_model(timm.create_model(name).eval(), tmp_path / "model.onnx")
    assert report.largest_error < 1e-4
    assert report.outputs == ["logits"]


@pytest.mark.parametrize(
    "options",
    [
        {"clustering": "static"},
        {"seeds": "learned"},
        {"slot_attention": False},
        {"local": False},
        {"output_stride": 8},
        {"global_pool": "max"},
        {"global_pool": "catavgmax"},
        {"num_classes": 0},
        {"slot_grid": (3, 5)},
        {"layer_scale": 1e-2},
        {"stem": "patch", "transition_kernel": 2, "transition_order": "norm_conv"},
        {"in_chans": 1},
    ],
    ids=str,
)
def test_every_option_exports(tmp_path, options):
    model = make(**options)
    report = export_model(model, tmp_path / "model.pt2")
    assert report.smallest <= 64
    found = capture(Deployed(model)).module()(torch.randn(1, model.in_chans, 70, 90))[0]
    assert found.isfinite().all()
