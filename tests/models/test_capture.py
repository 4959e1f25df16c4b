"""Graph capture with TorchScript, its ONNX exporter and `torch.export`; `torch.vmap`."""

import pytest
import timm
import torch
from torch import Tensor, nn
from torch.export import Dim

from glmix.layers.slots import pool_to_grid
from tests.processes import Command

from .test_contract import FEW, close

# A slot grid of 5 x 5 divides neither the maps of 56 x 56 pixels at 224 nor those behind them.
UNEVEN = {"slot_grid": 5}


def test_a_scripted_frozen_and_optimised_model_runs_at_224():
    program = """
import warnings, torch, timm, glmix
warnings.simplefilter("ignore")
for options in ({}, {"slot_grid": 5}):
    model = timm.create_model("test_glnet", **options).eval()
    fast = torch.jit.optimize_for_inference(torch.jit.freeze(torch.jit.script(model)))
    x = torch.randn(1, 3, 224, 224)
    with torch.no_grad():
        for _ in range(3):  # the first runs are profiled, later ones optimised
            torch.testing.assert_close(fast(x), model(x), rtol=1e-4, atol=1e-5)
"""
    process = Command(code=program)  # a process of its own, as the fault ended the process
    _, errors = process.communicate()
    assert process.returncode == 0, errors


class Stages(nn.Module):
    """An encoder as used by the decoders of other libraries."""

    def __init__(self, model: nn.Module, indices: list[int] | int | None, norm: bool, stop_early: bool) -> None:
        super().__init__()
        self.model, self.indices, self.norm, self.stop_early = model, indices, norm, stop_early

    def forward(self, x: Tensor):
        return self.model.forward_intermediates(x, self.indices, norm=self.norm, stop_early=self.stop_early)


@pytest.mark.parametrize(
    ("indices", "norm", "stop_early"),
    [([0, 2], False, True), (2, True, False), ([1, 3], True, True), ([-1], False, False)],
)
def test_forward_intermediates_scripts(indices, norm, stop_early):
    stages = Stages(timm.create_model("test_glnet").eval(), indices, norm, stop_early)
    x = torch.randn(2, 3, 64, 96)
    with torch.no_grad():
        features, maps = torch.jit.script(stages)(x)
        expected, expected_maps = stages(x)
    close(features, expected)
    assert len(maps) == len(expected_maps)
    for found, wanted in zip(maps, expected_maps, strict=True):
        close(found, wanted)


@pytest.mark.filterwarnings("ignore")
def test_the_onnx_exporter_of_torchscript_takes_any_size(tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    model = timm.create_model("test_glnet", **UNEVEN, **FEW).eval()
    path = tmp_path / "model.onnx"
    sizes = {"image": {0: "batch", 2: "height", 3: "width"}}
    torch.onnx.export(
        model, (torch.randn(2, 3, 224, 224),), path, dynamo=False, input_names=["image"], dynamic_axes=sizes
    )
    session = onnxruntime.InferenceSession(path)
    for shape in ((1, 3, 224, 224), (2, 3, 97, 130)):
        x = torch.randn(shape)
        (logits,) = session.run(None, {"image": x.numpy()})
        with torch.no_grad():
            torch.testing.assert_close(torch.from_numpy(logits), model(x), rtol=1e-3, atol=1e-4)


@pytest.mark.filterwarnings("ignore")
def test_a_trace_takes_any_size():
    model = timm.create_model("test_glnet", **UNEVEN, **FEW).eval()
    with torch.no_grad():
        traced = torch.jit.trace(model, torch.randn(2, 3, 96, 128))
        for shape in ((1, 3, 64, 64), (2, 3, 97, 130)):
            x = torch.randn(shape)
            close(traced(x), model(x))


@pytest.mark.parametrize(("batch", "low", "high"), [(1, 64, 256), (2, 33, 1024)])
def test_an_export_with_a_fixed_batch_takes_named_ranges_of_height_and_width(batch, low, high):
    model = timm.create_model("test_glnet", **FEW).eval()
    sizes = {2: Dim("height", min=low, max=high), 3: Dim("width", min=low, max=high)}
    program = torch.export.export(model, (torch.randn(batch, 3, 96, 128),), dynamic_shapes=(sizes,)).module()
    for height, width in ((low, low), (97, 70), (64, 256)):
        x = torch.randn(batch, 3, height, width)
        with torch.no_grad():
            close(program(x), model(x))


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("grid", [(8, 8), (5, 3)])
def test_captured_pooling_is_adaptive_pooling(grid, memory_format):
    class Pool(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return pool_to_grid(x, grid[0], grid[1])

    x = torch.randn(2, 6, 14, 9).contiguous(memory_format=memory_format)
    expected = torch.nn.functional.adaptive_avg_pool2d(x, grid).flatten(2).transpose(1, 2)
    torch._dynamo.reset()
    for captured in (
        torch.export.export(Pool(), (x,)).module(),
        torch.compile(Pool(), backend="eager", fullgraph=True),
        torch.jit.trace(Pool(), x),
    ):
        torch.testing.assert_close(captured(x), expected)


@pytest.mark.filterwarnings("ignore:There is a performance drop")
def test_vmap_over_images_is_the_batch():
    model = timm.create_model("test_glnet").eval()
    x = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        close(torch.vmap(lambda image: model(image.unsqueeze(0)).squeeze(0))(x), model(x))
