"""Strided convolutions of very small maps in bfloat16 on a CPU."""

from pathlib import Path

import pytest
import timm
import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from glmix.layers import apply_layers, convolve, transition

SMALL = [(1, 1), (2, 2), (2, 7), (9, 2), (1, 4)]
CPUINFO = Path("/proc/cpuinfo")
HAS_AMX = CPUINFO.is_file() and "amx_bf16" in CPUINFO.read_text()


class Convolved(TorchFunctionMode):
    """Records the dtypes of 2-d convolutions."""

    def __init__(self) -> None:
        super().__init__()
        self.dtypes: list[torch.dtype] = []

    def __torch_function__(self, function, types, args=(), kwargs=None):
        if function is torch.nn.functional.conv2d:
            autocast = torch.is_autocast_enabled("cpu")
            self.dtypes.append(torch.get_autocast_dtype("cpu") if autocast else args[0].dtype)
        return function(*args, **(kwargs or {}))


def make(order: str, dtype: torch.dtype) -> nn.Sequential:
    torch.manual_seed(0)
    return transition(16, 24, order, dtype=dtype).to(memory_format=torch.channels_last)


@pytest.mark.parametrize("order", ["norm_conv", "conv_norm"])
@pytest.mark.parametrize("size", SMALL)
@pytest.mark.parametrize("autocast", [False, True])
def test_small_maps_give_the_values_and_gradients_of_the_plain_convolution(size, order, autocast):
    layers, plain = make(order, torch.bfloat16).eval(), make(order, torch.float32).eval()
    plain.load_state_dict(layers.state_dict())
    x = torch.randn(2, 16, *size).bfloat16().contiguous(memory_format=torch.channels_last).requires_grad_()
    wide = x.detach().float().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast), Convolved() as convolved:
        found = apply_layers(layers, x)
    expected = plain(wide)
    assert convolved.dtypes == [torch.float32]
    assert found.dtype == torch.bfloat16
    assert found.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(found.float(), expected, rtol=2e-2, atol=2e-2)
    found.float().square().sum().backward()
    expected.square().sum().backward()
    torch.testing.assert_close(x.grad.float(), wide.grad, rtol=5e-2, atol=5e-2)
    for a, b in zip(layers.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(a.grad.float(), b.grad, rtol=5e-2, atol=5e-2 * b.grad.abs().max().item())


@pytest.mark.parametrize(
    ("dtype", "size", "autocast"),
    [(torch.bfloat16, (3, 3), False), (torch.float32, (2, 2), False), (torch.float32, (3, 8), True)],
)
def test_other_maps_and_dtypes_are_computed_as_usual(dtype, size, autocast):
    layers = make("conv_norm", dtype).eval()
    x = torch.randn(2, 16, *size, dtype=dtype)
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast), Convolved() as convolved:
        found = apply_layers(layers, x)
        assert torch.equal(found, layers(x))
    assert set(convolved.dtypes) == {torch.bfloat16 if autocast else dtype}


def test_padded_maps_of_two_pixels_are_computed_in_float32_too():
    layers, plain = make("conv_norm", torch.bfloat16).eval(), make("conv_norm", torch.float32).eval()
    plain.load_state_dict(layers.state_dict())
    x, mask = torch.randn(2, 16, 4, 2).bfloat16(), torch.ones(2, 4, 2, dtype=torch.bool)
    mask[1, 2:] = mask[1, :, 1:] = False
    with Convolved() as convolved:
        found, left = convolve(layers, x, mask)
    expected, expected_left = convolve(plain, x.float(), mask)
    assert convolved.dtypes == [torch.float32]
    assert torch.equal(left, expected_left)
    torch.testing.assert_close(found.float(), expected, rtol=2e-2, atol=2e-2)


def test_a_model_on_the_smallest_images_convolves_no_map_of_two_pixels_in_bfloat16():
    model = timm.create_model("test_glnet").eval()
    with torch.no_grad():
        x = torch.randn(1, 3, 32, 32)
        expected = model(x)
        with torch.autocast("cpu", torch.bfloat16), Convolved() as convolved:
            logits = model(x)
    assert convolved.dtypes.count(torch.float32) == 1  # the last transition
    torch.testing.assert_close(logits.float(), expected, rtol=0.05, atol=0.05)


@pytest.mark.skipif(torch.__version__ < (2, 12), reason="torch.compiler.is_exporting is true under torch.compile")
def test_compiled_small_maps_are_computed_in_float32_too():
    layers = make("conv_norm", torch.bfloat16).eval()
    torch._dynamo.reset()
    compiled = torch.compile(lambda x: apply_layers(layers, x), fullgraph=True, dynamic=True, backend="eager")
    for size, dtype in (((6, 4), torch.bfloat16), ((4, 2), torch.float32)):
        x = torch.randn(2, 16, *size).bfloat16()
        with torch.no_grad(), Convolved() as convolved:
            assert torch.equal(compiled(x), apply_layers(layers, x))
        assert set(convolved.dtypes) == {dtype}


@pytest.mark.skipif(not HAS_AMX, reason="needs a processor with AMX")
def test_the_smallest_images_give_no_nan_in_bfloat16_with_amx():
    model = timm.create_model("glnet_4g", num_classes=3).eval().bfloat16()
    with torch.inference_mode():
        for _ in range(50):
            for size in ((32, 32), (64, 32), (128, 32)):
                assert model(torch.randn(1, 3, *size).bfloat16()).isfinite().all()
