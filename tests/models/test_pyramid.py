"""A pyramid does not change its model and shares the weights."""

import timm
import torch
from torch import nn

import glmix


def changes(model: nn.Module, x: torch.Tensor) -> list[str]:
    """Return the names of the buffers that a forward pass changes."""
    before = {name: buffer.clone() for name, buffer in model.named_buffers()}
    model(x)
    return [name for name, buffer in model.named_buffers() if not torch.equal(buffer, before[name])]


def test_a_pyramid_keeps_the_mode_of_the_model():
    x = torch.randn(2, 3, 64, 64) + 3
    pyramid = glmix.Pyramid(timm.create_model("test_glnet").eval())
    assert not any(module.training for module in pyramid.modules())
    assert not changes(pyramid, x)
    trained = glmix.Pyramid(timm.create_model("test_glnet").train(), frozen_statistics=True)
    assert trained.training
    assert not changes(trained, x)
    assert changes(glmix.Pyramid(timm.create_model("test_glnet").train()), x)


def test_a_pyramid_does_not_change_the_model():
    model = timm.create_model("test_glnet", num_classes=5).eval()
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        expected = model(x)
        pyramid = glmix.Pyramid(model, (0, 2)).train()
        pyramid.set_grad_checkpointing()
        pyramid.model.set_slot_grid(2)
        assert not any(module.training for module in model.modules())
        assert torch.equal(model(x), expected)


def test_an_optimiser_of_the_models_parameters_trains_its_pyramid():
    model = timm.create_model("test_glnet").eval()
    optimiser = torch.optim.SGD(model.parameters(), lr=0.1)
    pyramid = glmix.Pyramid(model)
    x = torch.randn(1, 3, 64, 64)
    before = pyramid(x)
    before[-1].square().mul(torch.arange(before[-1].shape[1]).view(1, -1, 1, 1)).sum().backward()
    optimiser.step()
    assert not torch.equal(pyramid(x)[-1], before[-1])
    shared = {id(tensor) for tensor in (*model.parameters(), *model.buffers())}
    assert {id(tensor) for tensor in (*pyramid.model.parameters(), *pyramid.model.buffers())} <= shared


def test_a_pyramid_takes_a_fused_model():
    model = timm.create_model("test_glnet").eval()
    x = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        for found, expected in zip(glmix.Pyramid(glmix.fuse(model))(x), glmix.Pyramid(model)(x), strict=True):
            torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
