"""Exported files agree with the model at any size and in any thread; failures leave no file."""

import shutil
import subprocess
import sys
import warnings
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from torch import nn

from glmix.deploy import Calibration, ExportReport, export_model, load_exported
from glmix.deploy.export.check import check, check_sizes, largest_error
from glmix.deploy.export.graph import Deployed
from glmix.models import GLNet, Pyramid
from glmix.slots import slot_maps
from tests.deploy.models import FEW, ONE, SIZES, SMALLEST, close, make, normalised, page_blocks, pixels

onnxruntime = pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")


@pytest.fixture(scope="module")
def model() -> GLNet:
    return make(**FEW)


@pytest.fixture(scope="module")
def exported(model, tmp_path_factory) -> ExportReport:
    """An ONNX file with uint8 input."""
    path = tmp_path_factory.mktemp("onnx") / "model.onnx"
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    report = export_model(model, path, preprocess="uint8", runner=True)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert sorted(file.name for file in path.parent.iterdir()) == ["model.onnx", "onnx_model.py"]
    return report


def test_an_onnx_file_with_preprocessing_agrees_with_the_model_at_any_size(model, exported):
    run = load_exported(exported.files[0])
    for height, width in SIZES:
        for batch in (1, 3):
            images = pixels(batch, height, width)
            with torch.no_grad():
                expected = model(normalised(images))
            close(run(images.permute(0, 2, 3, 1).numpy())["logits"], expected)


def test_the_documented_code_for_running_a_file_runs(exported, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "onnx_model", raising=False)  # onnxruntime has a module of this name, too
    shutil.copy(exported.files[0], "model.onnx")
    shutil.copy(exported.files[1], "onnx_model.py")
    Image.effect_noise((300, 200), 60).save("photo.jpg")
    for block in page_blocks()[:3]:
        exec(block, {})
    told = capsys.readouterr().out.splitlines()
    assert told[0].endswith("['class 0', 'class 1', 'class 2', 'class 3', 'class 4']")
    assert told[1].endswith('["class 0", "class 1", "class 2", "class 3", "class 4"]')
    assert told[2].startswith("(3, 5) ['class 0'")


@pytest.mark.parametrize("size", [(300, 200), (161, 400), (90, 120)])
def test_the_runner_preprocesses_like_timm(model, exported, size, tmp_path):
    from glmix.deploy.onnx_model import OnnxModel

    image = Image.effect_noise((30, 20), 90).resize(size).convert("RGB")
    image.save(tmp_path / "photo.png")
    transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model))
    with torch.no_grad():
        expected = model(transform(image).unsqueeze(0)).softmax(1)[0]
    run = OnnxModel(exported.files[0])
    np.testing.assert_allclose(run(tmp_path / "photo.png")["probabilities"], expected.numpy(), atol=1e-5)
    np.testing.assert_allclose(run(np.asarray(image))["probabilities"], expected.numpy(), atol=1e-5)


def test_the_report_lists_the_checks(exported):
    assert exported.format == "onnx"
    assert exported.outputs == ["logits"]
    assert exported.smallest == 32
    assert {check.batch for check in exported.checks} == {1, 3}
    assert len({(check.height, check.width) for check in exported.checks}) == 5
    assert exported.largest_error < 1e-5


def test_a_file_names_its_sizes_and_its_classes(exported):
    session = onnxruntime.InferenceSession(exported.files[0])
    (image,) = session.get_inputs()
    assert (image.name, image.shape, image.type) == ("image", ["batch", "height", "width", 3], "tensor(uint8)")
    assert [(output.name, output.shape) for output in session.get_outputs()] == [("logits", ["batch", 5])]
    about = load_exported(exported.files[0]).about
    assert about["class_names"] == [f"class {index}" for index in range(5)]
    assert about["mean"] == [0.485, 0.456, 0.406]
    assert about["input_size"] == [3, 160, 160]


def test_many_threads_get_the_same_answers_of_one_file(exported):
    run = load_exported(exported.files[0], threads=1)
    inputs = [pixels(1, *size).permute(0, 2, 3, 1).numpy() for size in SIZES[:3]] * 8
    alone = [run(images)["logits"] for images in inputs]
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(lambda images: run(images)["logits"], inputs))
    assert all(np.array_equal(a, b) for a, b in zip(alone, together, strict=True))


def test_many_processes_get_the_same_answers_of_one_file_without_torch(exported):
    code = """
import sys, numpy as np, onnxruntime
session = onnxruntime.InferenceSession(sys.argv[1])
image = np.arange(64 * 80 * 3).reshape(1, 64, 80, 3).astype(np.uint8)
print(*session.run(["logits"], {"image": image})[0][0])
assert "torch" not in sys.modules
"""
    command = [sys.executable, "-c", code, str(exported.files[0])]
    running = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(4)]
    answers = [process.communicate(timeout=120)[0] for process in running]
    assert all(process.returncode == 0 for process in running)
    assert len(answers[0].split()) == 5
    assert len(set(answers)) == 1


def test_exported_slot_maps_agree_with_those_of_the_model(tmp_path):
    model = make(**{**SMALLEST, **FEW, "mixers": ("glmix", "glmix")})
    report = export_model(model, tmp_path / "slots.pt2", outputs="slots")
    images = torch.randn(2, 3, 70, 97)
    found = load_exported(report.files[0])(images.numpy())
    maps = slot_maps(model, images)
    assert list(found) == [block.name for block in maps]
    for block in maps:
        close(found[block.name].reshape(block.assignment.shape), block.assignment)
        assert found[block.name].shape[2:] == block.grid
        np.testing.assert_allclose(found[block.name].sum(1), 1, rtol=1e-5)


def test_a_pt2_file_returns_the_pyramid_in_many_threads(tmp_path):
    pyramid = Pyramid(make(**{**SMALLEST, **FEW}), out_indices=(0, 1)).eval()
    for norm in pyramid.norms:
        nn.init.normal_(norm.weight)
    report = export_model(pyramid, tmp_path / "maps.pt2", outputs="features", preprocess="float")
    run = load_exported(report.files[0])
    assert run.names == ["stage0", "stage1"]
    inputs = [pixels(batch, *size) for size in SIZES[:3] for batch in (1, 3)] * 2
    with torch.no_grad():
        expected = [pyramid(normalised(images)) for images in inputs]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda images: run((images.float() / 255).numpy()), inputs))
    for maps, wanted in zip(found, expected, strict=True):
        for array, tensor in zip(maps.values(), wanted, strict=True):
            close(array, tensor)


class FrozenMean(GLNet):
    """A model whose captured graph divides by the number of pixels of the example input."""

    def forward_head(self, x: torch.Tensor, pre_logits: bool = False) -> torch.Tensor:
        pooled = x.sum((2, 3)) / (24 * 32 if torch.compiler.is_exporting() else x.shape[2] * x.shape[3])
        return self.head.fc(pooled)


class FixedHeight(GLNet):
    """A model that makes a size constant, which torch.export accepts; its guard is not in the function of a file."""

    def forward_head(self, x: torch.Tensor, pre_logits: bool = False) -> torch.Tensor:
        return self.head(x * float(int(x.shape[2])))


OPTIONS = {**ONE, "num_slots": 16, "pos_conv": False, "mlp_conv": False}


def test_a_graph_with_a_constant_from_the_example_raises_an_error():
    deployed = Deployed(FixedHeight(**OPTIONS))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        frozen = torch.jit.trace(deployed, deployed.example(1, 96, 128), check_trace=False)

    def run(images):
        return {"logits": frozen(torch.from_numpy(images))[0].numpy()}

    assert largest_error(check(run, deployed, [(96, 128)])) < 1e-5  # where it was captured it looks right
    with pytest.raises(ValueError, match=r"for 1 image of 33 x 33 pixels the output 'logits' \(1x5\) has an error of"):
        check(run, deployed, check_sizes(deployed, 33))


def test_a_graph_with_a_constant_size_raises_an_error():
    deployed = Deployed(make(**SMALLEST))
    program = torch.export.export(deployed, (deployed.example(1, 96, 128),)).module()

    def run(images):
        return {"logits": program(torch.from_numpy(images))[0].detach().numpy()}

    with pytest.raises(ValueError, match="fails for 1 image of 33 x 33 pixels: Guard failed"):
        check(run, deployed, check_sizes(deployed, 33))


class FixedInput(GLNet):
    """A model that makes the image size constant."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x * float(int(x.shape[2])))


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        (
            FrozenMean,
            r"differs from the model: for 1 image of \d+ x \d+ pixels the output 'logits'",
        ),
        pytest.param(
            FixedHeight,
            r"differs from the model: for 1 image of \d+ x \d+ pixels the output 'logits'",
            marks=pytest.mark.slow,
        ),
        pytest.param(
            FixedInput,
            r"constant size that must be dynamic: .* specialized it to be a constant \(96\)$",
            marks=pytest.mark.slow,
        ),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_a_wrong_graph_leaves_no_file(tmp_path, kind, words):
    model = kind(**OPTIONS).eval()
    with pytest.raises(ValueError, match=words):
        export_model(model, tmp_path / "model.pt2")
    assert list(tmp_path.iterdir()) == []


def test_a_model_with_invalid_weights_raises_an_error(tmp_path):
    deployed = Deployed(make(**SMALLEST))
    deployed.network.head.fc.weight.data[0, 0] = float("nan")
    with pytest.raises(ValueError, match="its weights are invalid"):
        check(lambda images: {}, deployed, [(64, 64)])


def test_a_full_disk_leaves_no_half_written_file(tmp_path):
    mount = shutil.which("mount")
    disk = tmp_path / "disk"
    disk.mkdir()
    if mount is None or subprocess.run([mount, "-t", "tmpfs", "-o", "size=64k", "tmpfs", disk], check=False).returncode:
        pytest.skip("a small tmpfs cannot be mounted here (it takes root)")
    try:
        (disk / "model.pt2").write_text("the one before")
        with pytest.raises(OSError, match=r"model\.pt2 could not be written \(No space left"):
            export_model(make(**ONE), disk / "model.pt2", overwrite=True)
        assert [file.name for file in disk.iterdir()] == ["model.pt2"]
        assert (disk / "model.pt2").read_text() == "the one before"
    finally:
        subprocess.run(["umount", disk], check=False)


@pytest.mark.parametrize(
    ("name", "options", "error", "words"),
    [
        ("model.onnx", {"outputs": "logits"}, ValueError, "outputs must be one of classes, features, slots"),
        ("model.onnx", {"preprocess": "bytes"}, ValueError, "preprocess must be one of none, float, uint8"),
        ("model.bin", {}, ValueError, "suffix of .* is not one of"),
        ("model.onnx", {"format": "pt2"}, ValueError, r"format pt2 must have the suffix \.pt2"),
        ("model.onnx", {"compiled": True}, ValueError, "Only pt2 can be compiled"),
        ("absent/model.onnx", {}, FileNotFoundError, "absent is not a folder"),
        ("there.onnx", {}, FileExistsError, r"there\.onnx already exists"),
        ("folder.onnx", {}, IsADirectoryError, "is a folder"),
        ("/proc/model.onnx", {}, OSError, r"/proc/model\.onnx cannot be written"),
        ("x" * 300 + ".onnx", {}, OSError, "name too long"),
    ],
)
def test_invalid_arguments_raise_an_error_at_once(model, tmp_path, name, options, error, words):
    (tmp_path / "there.onnx").write_text("mine")
    (tmp_path / "folder.onnx").mkdir()
    with pytest.raises(error, match=words):
        export_model(model, tmp_path / name, **options)
    assert (tmp_path / "there.onnx").read_text() == "mine"


def test_invalid_exports_raise_an_error(model, tmp_path):
    calibration = Calibration(pixels(2, 64, 64), pixels(2, 64, 64))
    with pytest.raises(ValueError, match="int8 is supported for onnx and openvino"):
        export_model(model, tmp_path / "m.pt2", calibration=calibration)
    with pytest.raises(ValueError, match="Linear contains no GLNet"):
        export_model(nn.Linear(2, 2), tmp_path / "m.pt2")
    with pytest.raises(ValueError, match="follows the aspect ratio"):
        export_model(make(slot_aspect=True), tmp_path / "m.pt2")
    with pytest.raises(ValueError, match="no block of this model has slots"):
        export_model(make(mixers=("attn",) * 4), tmp_path / "m.pt2", outputs="slots")
    with pytest.raises(ValueError, match="mean and standard deviation of each of 4 channels"):
        export_model(make(in_chans=4), tmp_path / "m.pt2", preprocess="float")
    with pytest.raises(ValueError, match=r"must be \.onnx, \.pt2 or \.xml"):
        load_exported(tmp_path / "model.tflite")
    with pytest.raises(FileNotFoundError, match="There is no file"):
        load_exported(tmp_path / "model.onnx")
    assert list(tmp_path.iterdir()) == []


def test_int8_reports_its_error_and_keeps_products_of_activations_in_float(model, tmp_path, exported):
    onnx = pytest.importorskip("onnx")
    from glmix.deploy.export.int8 import compare, quantise

    deployed = Deployed(model, preprocess="uint8")
    images = deployed.example(24, 96, 96).permute(0, 3, 1, 2)
    quantise(exported.files[0], tmp_path / "int8.onnx", deployed, images[:16])
    small = load_exported(tmp_path / "int8.onnx")
    report = compare(load_exported(exported.files[0]), small, deployed, images[16:], rounds=1)
    assert report.images == 8
    assert 0 < report.error < 0.1
    assert set(report.milliseconds) == {"float32", "int8"}
    assert small.about["class_names"] == [f"class {index}" for index in range(5)]
    graph = onnx.load(tmp_path / "int8.onnx").graph
    makers = {output: node.op_type for node in graph.node for output in node.output}
    weights = {tensor.name for tensor in graph.initializer}
    scales = [s for s in graph.initializer if s.name.endswith("weight_scale")]
    assert any(len(scale.dims) == 1 and scale.dims[0] > 1 for scale in scales)  # one for each output channel
    for node in graph.node:
        quantised = [makers.get(name) == "DequantizeLinear" for name in node.input]
        if node.op_type == "Softmax":
            assert not any(quantised)
        if node.op_type == "MatMul" and not quantised[1]:
            assert not weights & set(node.input)
        if node.op_type == "Gemm":
            assert not any(quantised)
    convolutions = [node for node in graph.node if node.op_type == "Conv"]
    assert [all(makers.get(name) == "DequantizeLinear" for name in node.input[:2]) for node in convolutions] == [
        False,
        *[True] * (len(convolutions) - 1),
    ]
