"""Activation checkpointing saves memory and does not change results."""

import copy

import pytest
import torch
from torch import Tensor, nn

from glmix.layers import checkpointing
from glmix.layers.mixer import LocalBranch
from glmix.layers.mlp import ConvMlp


def saved_bytes(module: nn.Module, x: Tensor) -> int:
    """Return the bytes that autograd saves in a forward pass, without parameters and x; shared memory counts once."""
    own = {tensor.untyped_storage().data_ptr() for tensor in [x, *module.parameters()]}
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        result = module(x)
    assert result.requires_grad
    return sum(kept.values())


@pytest.mark.parametrize(
    ("module", "channels"), [(ConvMlp(8, 32, depthwise=True), 32), (ConvMlp(8, 32), 32), (LocalBranch(8), 8)]
)
def test_the_result_of_the_cheap_layer_is_not_saved(module: nn.Module, channels: int) -> None:
    x = torch.randn(2, 8, 16, 16, requires_grad=True)
    one_map = 2 * channels * 16 * 16 * 4
    saved = saved_bytes(copy.deepcopy(module).eval(), x) - saved_bytes(module.train(), x)
    assert saved >= one_map


@pytest.mark.parametrize("module", [ConvMlp(8, 32, depthwise=True), LocalBranch(8)])
def test_gradients_are_bitwise_identical(module: nn.Module, monkeypatch: pytest.MonkeyPatch) -> None:
    x = torch.randn(2, 8, 12, 10, requires_grad=True)

    def gradients() -> list[Tensor]:
        return list(torch.autograd.grad(module.train()(x).square().sum(), [x, *module.parameters()]))

    again = gradients()
    monkeypatch.setattr(checkpointing, "checkpoint", lambda function, x, **_: function(x))
    for found, expected in zip(again, gradients(), strict=True):
        assert torch.equal(found, expected)


def test_without_gradients_nothing_is_recomputed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpointing, "checkpoint", None)
    with torch.no_grad():
        ConvMlp(8, 32).train()(torch.randn(1, 8, 4, 4))


def test_the_last_layer_is_not_recomputed() -> None:
    module, calls = ConvMlp(8, 32).train(), 0

    def count(*_: object) -> None:
        nonlocal calls
        calls += 1

    module.act.register_forward_hook(count)
    module.fc2.register_forward_hook(count)  # not reached a second time: the recomputation stops early
    module(torch.randn(1, 8, 4, 4)).sum().backward()
    assert calls == 3
