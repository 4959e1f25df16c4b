"""What is computed again on the way back changes no number, only what is remembered."""

import copy

import pytest
import torch
from torch import Tensor, nn

from glmix.layers import recompute
from glmix.layers.mixer import LocalBranch
from glmix.layers.mlp import ConvMlp


def remembered(module: nn.Module, x: Tensor) -> int:
    """Bytes that autograd keeps of a forward pass, beside parameters and what is in x, each memory once."""
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
def test_the_result_of_a_cheap_step_is_not_remembered(module: nn.Module, channels: int) -> None:
    x = torch.randn(2, 8, 16, 16, requires_grad=True)
    one_map = 2 * channels * 16 * 16 * 4
    saved = remembered(copy.deepcopy(module).eval(), x) - remembered(module.train(), x)
    assert saved >= one_map


@pytest.mark.parametrize("module", [ConvMlp(8, 32, depthwise=True), LocalBranch(8)])
def test_gradients_stay_the_same_to_the_bit(module: nn.Module, monkeypatch: pytest.MonkeyPatch) -> None:
    x = torch.randn(2, 8, 12, 10, requires_grad=True)

    def gradients() -> list[Tensor]:
        return list(torch.autograd.grad(module.train()(x).square().sum(), [x, *module.parameters()]))

    again = gradients()
    monkeypatch.setattr(recompute, "checkpoint", lambda function, x, **_: function(x))
    for found, expected in zip(again, gradients(), strict=True):
        assert torch.equal(found, expected)


def test_without_gradients_nothing_is_computed_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recompute, "checkpoint", None)
    with torch.no_grad():
        ConvMlp(8, 32).train()(torch.randn(1, 8, 4, 4))


def test_the_costly_step_behind_is_not_computed_again() -> None:
    module, calls = ConvMlp(8, 32).train(), 0

    def count(*_: object) -> None:
        nonlocal calls
        calls += 1

    module.act.register_forward_hook(count)
    module.fc2.register_forward_hook(count)  # behind the convolution, which ends early on the second time
    module(torch.randn(1, 8, 4, 4)).sum().backward()
    assert calls == 3
