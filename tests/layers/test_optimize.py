"""Faster training: the replaced layers compute the same values and gradients, and nothing else changes."""

import copy
import inspect
import io
import pickle
from collections.abc import Callable, Iterator

import pytest
import timm
import torch
from functorch.compile import make_boxed_func
from timm.layers import Attention
from torch import Tensor, nn
from torch._dynamo.backends.common import aot_autograd
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

import glmix
from glmix.errors import InputError
from glmix.layers import (
    DepthwiseConv2d,
    PointwiseConv2d,
    ShortAttention,
    depthwise,
    has_cpp_compiler,
    pointwise,
    self_attention,
)
from glmix.layers.padding import attention_bias


@pytest.fixture
def always(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """Use the faster gradient at any size and without a compiler; return the kernel sizes of its calls."""
    calls: list[int] = []

    def reduce(kernel: int, dtype: torch.dtype) -> depthwise.WeightGradient:
        def gradient(x: Tensor, grad_output: Tensor) -> tuple[Tensor, Tensor]:
            calls.append(kernel)
            return depthwise._reduce(kernel, depthwise._reduce_row, x, grad_output)

        return gradient

    monkeypatch.setattr(depthwise, "SMALLEST", 1)
    monkeypatch.setattr(depthwise, "_weight_gradient", reduce)
    monkeypatch.setattr(depthwise, "DTYPES", (torch.float32, torch.bfloat16, torch.float64))
    return calls


def pair(kernel: int = 5, channels: int = 6, **options: object) -> tuple[nn.Conv2d, DepthwiseConv2d]:
    """Return a depthwise convolution and a copy with the faster gradient."""
    torch.manual_seed(0)
    plain = nn.Conv2d(channels, channels, kernel, padding=kernel // 2, groups=channels, **options)  # type: ignore[arg-type]
    fast = glmix.optimize_for_training(nn.Sequential(copy.deepcopy(plain)))[0]
    assert isinstance(fast, DepthwiseConv2d)
    return plain, fast


def images(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    torch.manual_seed(1)
    return torch.randn(*shape, dtype=dtype).to(memory_format=torch.channels_last)


def gradients(layer: nn.Conv2d, x: Tensor, autocast: bool = False) -> list[Tensor]:
    """Return the output and the gradients of input, weight and bias."""
    x = x.detach().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        y = layer(x)
    inputs = [x, *layer.parameters()]
    return [y, *torch.autograd.grad(y.float(), inputs, torch.cos(torch.arange(y.numel())).view(y.shape))]


@pytest.mark.parametrize("kernel", [5, 7])
@pytest.mark.parametrize("bias", [True, False])
def test_gradients_agree_with_the_plain_layer(always: list[int], kernel: int, bias: bool) -> None:
    plain, fast = pair(kernel, bias=bias)
    for shape in ((2, 6, 9, 11), (1, 6, 2, 3)):
        for found, expected in zip(gradients(fast, images(*shape)), gradients(plain, images(*shape)), strict=True):
            assert found.dtype == expected.dtype
            torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    assert gradients(fast, images(2, 6, 9, 11))[2].stride() == fast.weight.stride()
    assert always == [kernel] * 3


def test_the_weight_gradient_under_autocast_is_more_precise_than_the_plain_one(always: list[int]) -> None:
    plain, fast = pair()
    x = images(4, 6, 16, 16)
    exact = gradients(copy.deepcopy(plain).to(torch.bfloat16).float(), x.bfloat16().float())
    found, expected = gradients(fast, x, autocast=True), gradients(plain, x, autocast=True)
    assert found[0].dtype == expected[0].dtype == torch.bfloat16
    assert torch.equal(found[0], expected[0])

    def error(values: list[Tensor]) -> float:
        return float((values[2] - exact[2]).norm() / exact[2].norm())

    assert error(found) < error(expected) < 1e-2
    assert always


def test_first_and_second_derivatives_are_correct(always: list[int]) -> None:
    _, fast = pair(channels=2)
    fast.double()
    x = images(1, 2, 4, 3, dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(fast, (x,))
    parameters = (x, *(p.detach().requires_grad_() for p in fast.parameters()))

    def call(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return torch.func.functional_call(fast, {"weight": weight, "bias": bias}, (x,))

    # the sums of the weight gradient are in float32
    assert torch.autograd.gradcheck(call, parameters, atol=1e-2, eps=1e-3)
    assert torch.autograd.gradgradcheck(fast, (x,))


def test_only_needed_gradients_are_computed(always: list[int]) -> None:
    plain, fast = pair()
    for frozen in ("weight", "bias", "input"):
        found = []
        for layer in (plain, fast):
            layer.requires_grad_(True)
            x = images(2, 6, 8, 8).requires_grad_(frozen != "input")
            if frozen != "input":
                getattr(layer, frozen).requires_grad_(False)
            layer.zero_grad()
            layer(x).square().sum().backward()
            found.append([x.grad, layer.weight.grad, layer.bias.grad])  # type: ignore[union-attr]
        for expected, gradient in zip(*found, strict=True):
            torch.testing.assert_close(gradient, expected, rtol=1e-4, atol=1e-4)
    fast.requires_grad_(True)
    with torch.no_grad():
        assert fast(images(2, 6, 8, 8)).grad_fn is None


def test_gradient_checkpointing_works_and_traced_and_exported_graphs_have_the_plain_layer(always: list[int]) -> None:
    plain, fast = pair()
    x = images(2, 6, 8, 8).requires_grad_()
    checkpoint(fast, x, use_reentrant=False).square().sum().backward()
    plain(x).square().sum().backward()
    torch.testing.assert_close(fast.weight.grad, plain.weight.grad, rtol=1e-4, atol=1e-4)
    count = len(always)
    for captured in (torch.jit.script(fast), torch.jit.trace(fast, (x,)), torch.export.export(fast, (x,)).module()):
        torch.testing.assert_close(captured(x), plain(x))
    assert len(always) == count == 1


@pytest.mark.skipif(torch.__version__ < (2, 12), reason="torch.compiler.is_exporting is true under torch.compile")
def test_a_compiled_model_has_the_faster_gradient_in_its_graph(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(depthwise, "SMALLEST", 1)
    monkeypatch.setattr(depthwise, "HAS_AVX512", True)
    plain, fast = pair()
    x = images(4, 6, 16, 16)
    graphs: list[torch.fx.GraphModule] = []

    def backward(graph: torch.fx.GraphModule, inputs: list[Tensor]) -> Callable[..., object]:
        graphs.append(graph)
        return make_boxed_func(graph)

    backend = aot_autograd(fw_compiler=lambda graph, inputs: make_boxed_func(graph), bw_compiler=backward)
    compiled = torch.compile(fast, backend=backend, fullgraph=True)
    exact = gradients(copy.deepcopy(plain).to(torch.bfloat16).float(), x.bfloat16().float())
    found, expected = gradients(compiled, x, autocast=True), gradients(plain, x, autocast=True)
    assert all(map(torch.equal, found[:2], expected[:2]))  # output and gradient of the input
    assert (found[2] - exact[2]).norm() < (expected[2] - exact[2]).norm() < 1e-2 * exact[2].norm()
    masks = [node.args[-1] for node in graphs[0].graph.nodes if "convolution_backward" in str(node.target)]
    assert masks == [[True, False, False]]


@pytest.mark.parametrize("name", ["test_glnet", "test_convnext"])
def test_a_network_trains_alike_and_keeps_its_weights(always: list[int], name: str) -> None:
    torch.manual_seed(0)
    model = timm.create_model(name, num_classes=5).to(memory_format=torch.channels_last)
    fast = copy.deepcopy(model)
    assert glmix.optimize_for_training(fast) is fast
    assert list(fast.state_dict()) == list(model.state_dict())
    fast = pickle.loads(pickle.dumps(copy.deepcopy(fast)))
    losses = []
    for network in (model, fast):
        optimizer = torch.optim.AdamW(network.train().parameters(), lr=1e-3)
        own = []
        for _ in range(3):
            with torch.autocast("cpu", torch.bfloat16):
                loss = F.cross_entropy(network(images(4, 3, 64, 64)).float(), torch.arange(4))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            own.append(loss.item())
        losses.append(own)
    assert losses[1] == pytest.approx(losses[0], rel=2e-2)
    assert set(always) == ({5} if name == "test_glnet" else {7})
    buffer = io.BytesIO()
    torch.save(fast.state_dict(), buffer)
    model.load_state_dict(torch.load(io.BytesIO(buffer.getvalue()), weights_only=True))


def test_padded_batches_work(always: list[int]) -> None:
    torch.manual_seed(0)
    model = timm.create_model("test_glnet", num_classes=0)
    mask = torch.zeros(2, 64, 64, dtype=torch.bool)
    mask[0, :, :48], mask[1, :40] = True, True
    found = []
    for network in (model, glmix.optimize_for_training(copy.deepcopy(model))):
        maps = glmix.Pyramid(network)(images(2, 3, 64, 64), mask)
        maps[-1].square().mean().backward()
        found.append(torch.cat([p.grad.flatten() for p in network.parameters() if p.grad is not None]))
    torch.testing.assert_close(found[1], found[0], rtol=1e-4, atol=1e-5)
    assert always


def test_layers_that_do_not_qualify_are_left_alone() -> None:
    left = nn.Sequential(
        nn.Conv2d(8, 8, 3, padding=1, groups=8),
        nn.Conv2d(8, 8, 5, padding=2, groups=4),
        nn.Conv2d(8, 8, 5, padding=2, groups=8, stride=2),
        nn.Conv2d(8, 8, 5, padding=4, groups=8, dilation=2),
        nn.Conv2d(8, 8, 5, groups=8),
        nn.Conv2d(8, 8, 1),
        nn.Conv2d(1024, 1024, 1, stride=2),
        Attention(64, 2, qk_norm=True, norm_layer=nn.LayerNorm),
        Attention(64, 2, attn_drop=0.1),
    )
    kinds = [type(layer) for layer in left]
    assert [type(layer) for layer in glmix.optimize_for_training(left)] == kinds
    with pytest.raises(InputError, match="traced, scripted or exported"):
        glmix.optimize_for_training(torch.jit.script(left[0]))


def test_small_maps_and_other_memory_formats_use_the_plain_gradient(
    always: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    _, fast = pair()
    fast(images(2, 6, 8, 8).contiguous()).sum().backward()
    monkeypatch.setattr(depthwise, "SMALLEST", 1 << 17)
    fast(images(2, 6, 8, 8)).sum().backward()
    assert always == []


@pytest.mark.slow
@pytest.mark.skipif(
    torch.backends.cpu.get_cpu_capability() != "AVX512" or not has_cpp_compiler(),
    reason="needs AVX-512 and a C++ compiler",
)
def test_the_compiled_gradient_agrees_and_missing_compilers_give_the_plain_one(monkeypatch: pytest.MonkeyPatch) -> None:
    plain, fast = pair(channels=64)
    x = images(2, 64, 32, 33)
    assert x.numel() >= depthwise.SMALLEST
    expected = gradients(plain, x)
    depthwise._compiled_gradient.cache_clear()
    for compiler in (True, False):
        if not compiler:
            monkeypatch.setattr("shutil.which", lambda name: None)
            depthwise._compiled_gradient.cache_clear()
        for found, wanted in zip(gradients(fast, x), expected, strict=True):
            torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-3)
        assert (depthwise._weight_gradient(5, torch.float32) is not None) == compiler
    depthwise._compiled_gradient.cache_clear()


@pytest.mark.parametrize("tokens", [49, 300])
@pytest.mark.parametrize("masked", [False, True])
def test_short_attention_agrees_with_attention(tokens: int, masked: bool) -> None:
    attention = self_attention(64, 32).to(torch.bfloat16)
    x = torch.randn(2, tokens, 64, dtype=torch.bfloat16)
    mask = attention_bias(torch.rand(2, 1, tokens) > 0.3, x.dtype) if masked else None
    wanted = attention(x, mask)
    attention.__class__ = ShortAttention
    torch.testing.assert_close(attention(x, mask), wanted, rtol=5e-2, atol=5e-3)
    if "is_causal" in inspect.signature(Attention.forward).parameters:  # timm 1.0.22 has no such argument
        assert torch.equal(attention(x, is_causal=True), Attention.forward(attention, x, is_causal=True))


@pytest.mark.parametrize("bias", [True, False])
def test_large_pointwise_convolutions_are_matrix_products_in_bfloat16(
    monkeypatch: pytest.MonkeyPatch, bias: bool
) -> None:
    monkeypatch.setattr(pointwise, "LARGE", 1)
    torch.manual_seed(0)
    plain = nn.Conv2d(6, 4, 1, bias=bias)
    fast = glmix.optimize_for_training(copy.deepcopy(plain))
    assert type(fast) is PointwiseConv2d
    x = images(2, 6, 5, 7)
    assert all(map(torch.equal, gradients(fast, x), gradients(plain, x)))  # float32 is left alone
    exact = gradients(plain, x.bfloat16().float())
    for found, wanted in zip(gradients(fast, x, autocast=True), exact, strict=True):
        torch.testing.assert_close(found.float(), wanted, rtol=2e-2, atol=5e-2)
    with torch.autocast("cpu", torch.bfloat16):
        result = fast(x)
    assert result.dtype == torch.bfloat16
    assert result.is_contiguous(memory_format=torch.channels_last)
    names = [str(node) for node, _ in result.grad_fn.next_functions] + [str(result.grad_fn)]
    assert not any("Convolution" in name for name in names)
    for captured in (torch.jit.script(fast), torch.jit.trace(fast, (x,))):
        torch.testing.assert_close(captured(x), plain(x))
