"""Compact soft clustering: the matrices and gradients of the plain bridge, and less memory for the backward pass."""

import copy
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

import glmix
from glmix.layers import CompactSoftBridge, SoftBridge, compact, has_cpp_compiler

compilable = torch.backends.cpu.get_cpu_capability() == "AVX512" and has_cpp_compiler()


@pytest.fixture(params=["composed", "shared exponentials"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Without compiled functions, and with the functions that are compiled elsewhere."""
    kernels = compact._Kernels(compact._forward, compact._backward, compact._project)
    monkeypatch.setattr(compact, "_kernels", lambda dtype: None if request.param == "composed" else kernels)
    monkeypatch.setattr(compact, "SMALLEST", 1)
    monkeypatch.setattr(compact, "DTYPES", (torch.float32, torch.bfloat16, torch.float64))
    return request.param


def bridges(channels: int = 5, **options: object) -> tuple[SoftBridge, SoftBridge]:
    """Return a bridge and its compact form."""
    torch.manual_seed(0)
    plain = SoftBridge(channels, (2, 3), **options)  # type: ignore[arg-type]
    fast = glmix.optimize_for_training(copy.deepcopy(plain))
    assert type(fast) is CompactSoftBridge
    return plain, fast


def maps(channels: int = 5, height: int = 6, width: int = 7, dtype: torch.dtype = torch.float32) -> list[Tensor]:
    """Return the normalised pixels and the block input, (2, C, H, W); one pixel is zero."""
    torch.manual_seed(1)
    found = [torch.randn(2, channels, height, width, dtype=dtype) for _ in range(2)]
    found[0][0, :, 1, 2] = 0
    return [x.to(memory_format=torch.channels_last).requires_grad_() for x in found]


def results(bridge: SoftBridge, inputs: list[Tensor], autocast: bool = False) -> list[Tensor]:
    """Return clustering, assignment and the gradients of inputs and parameters."""
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        pair = bridge(*inputs)
    torch.manual_seed(2)
    grads = [torch.randn(matrix.shape).to(matrix.dtype) for matrix in pair]
    found = torch.autograd.grad(pair, [*inputs, *bridge.parameters()], grads, allow_unused=True)
    return [*pair, *(gradient for gradient in found if gradient is not None)]


@pytest.mark.parametrize("seeds", ["pooled", "learned"])
@pytest.mark.parametrize("scale", [0.4, -3.0, 60.0])
def test_matrices_and_gradients_agree_with_the_plain_bridge(way: str, seeds: str, scale: float) -> None:
    plain, fast = bridges(seeds=seeds, scale=scale)
    expected, found = results(plain, maps()), results(fast, maps())
    assert len(found) == len(expected) == 5
    for one, other in zip(found, expected, strict=True):
        assert one.dtype == other.dtype
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("autocast", [False, True])
def test_bfloat16_is_as_precise_as_the_plain_bridge(way: str, autocast: bool) -> None:
    plain, fast = bridges(16)
    inputs = [x.detach().bfloat16() for x in maps(16, 12, 12)]
    exact = results(copy.deepcopy(plain), [x.float().requires_grad_() for x in inputs])
    if not autocast:
        plain, fast = plain.bfloat16(), fast.bfloat16()
    own = [results(bridge, [x.clone().requires_grad_() for x in inputs], autocast) for bridge in (fast, plain)]
    for found, expected, wanted in zip(*own, exact, strict=True):  # the gradient of the scale is one sum
        assert found.dtype == expected.dtype
        errors = [float((x.float() - wanted).norm().detach() / wanted.norm().detach()) for x in (found, expected)]
        assert errors[0] < (5e-2 if wanted.numel() == 1 else 2 * errors[1]), wanted.shape


def test_first_and_second_derivatives_are_correct(way: str) -> None:
    _, fast = bridges(3)
    fast.double()
    y, x = maps(3, 4, 3, dtype=torch.float64)
    y = (y.detach() + 0.1).requires_grad_()  # away from zero

    def call(y: Tensor, x: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
        result: tuple[Tensor, Tensor] = torch.func.functional_call(fast, {"scale": scale}, (y, x))
        return result

    scale = fast.scale.detach().requires_grad_()
    assert torch.autograd.gradcheck(call, (y, x, scale))
    assert torch.autograd.gradgradcheck(call, (y[:1].detach().requires_grad_(), x[:1].detach().requires_grad_(), scale))


def test_only_the_inputs_and_the_two_matrices_are_kept(way: str) -> None:
    kept = []
    for bridge in bridges(4):
        seen: dict[int, Tensor] = {}

        def keep(x: Tensor, seen: dict[int, Tensor] = seen) -> Tensor:
            seen[x.untyped_storage().data_ptr()] = x
            return x

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x):
            bridge(*maps(4, 16, 16))
        kept.append(sum(x.numel() == 2 * 6 * 256 for x in seen.values()))
    assert kept[1] == 2 < kept[0]


def test_masks_checkpoints_frozen_scales_and_captured_graphs_work(way: str) -> None:
    plain, fast = bridges()
    y, x = maps()
    mask = torch.ones(2, 6, 7, dtype=torch.bool)
    mask[0, :, 5:] = False
    assert torch.equal(fast(y, x, mask)[0], plain(y, x, mask)[0])
    first = checkpoint(fast, y, x, use_reentrant=False)
    for one, other in zip(first, plain(y, x), strict=True):
        torch.testing.assert_close(one, other)
    compiled = torch.compile(fast, backend="eager", fullgraph=True)
    for captured in (torch.jit.script(fast), torch.jit.trace(fast, (y, x)), compiled):
        torch.testing.assert_close(captured(y, x)[1], plain(y, x)[1])
    fast.scale.requires_grad_(False)
    torch.autograd.grad(fast(y, x)[0].square().sum(), (y, x))
    with torch.no_grad():
        assert fast(y, x)[0].grad_fn is None


@pytest.mark.slow
@pytest.mark.skipif(not compilable, reason="needs AVX-512 and a C++ compiler")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_compiled_functions_agree(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compact, "SMALLEST", 1)
    plain, fast = (bridge.to(dtype) for bridge in bridges(16))
    assert compact._kernels(dtype) is not None
    for height, width in ((9, 11), (16, 16)):
        inputs = [x.detach().to(dtype).requires_grad_() for x in maps(16, height, width)]
        for found, expected in zip(results(fast, inputs)[:4], results(plain, inputs)[:4], strict=True):
            tolerance = 1e-4 if dtype == torch.float32 else 3e-2
            difference, size = (float(x.detach().float().norm()) for x in (found - expected, expected))
            assert difference < tolerance * size
