"""Padded batches: the results for the pixels of an image equal those without padding."""

import pytest
import timm
import torch
from torch import Tensor, nn

import glmix
from glmix.layers import Block

SIZES = [(64, 96), (128, 64), (96, 128)]
ODD = [(70, 93), (101, 64), (64, 77)]
CANVAS = (128, 128)
SMALL = {"widths": (32, 64, 96, 128), "depths": (2, 2, 2, 1), "num_slots": 16}


def varied(model: nn.Module) -> nn.Module:
    """Change statistics, biases and scales from their initial values, so that no errors cancel by chance."""
    generator = torch.Generator().manual_seed(1)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.5, generator=generator)
            module.running_var.uniform_(0.5, 2, generator=generator)
        for name, parameter in module.named_parameters(recurse=False):
            if name == "bias":
                nn.init.normal_(parameter, 0, 0.3, generator=generator)
            elif name == "scale":
                nn.init.constant_(parameter, 6.0)
    return model.eval()


def padded(sizes: list[tuple[int, int]], canvas: tuple[int, int] = CANVAS) -> tuple[Tensor, Tensor, list[Tensor]]:
    """Return a batch with noise in the padding, its mask and the single images."""
    generator = torch.Generator().manual_seed(0)
    images = [torch.randn(3, h, w, generator=generator) for h, w in sizes]
    batch = 10 * torch.randn(len(sizes), 3, *canvas, generator=generator)
    mask = torch.zeros(len(sizes), *canvas, dtype=torch.bool)
    for i, image in enumerate(images):
        h, w = image.shape[1:]
        batch[i, :, :h, :w] = image
        mask[i, :h, :w] = True
    return batch, mask, images


def assert_alike(found: Tensor, alone: Tensor) -> None:
    scale = alone.abs().max()
    h, w = alone.shape[2:]
    assert (found[:, :, :h, :w] - alone).abs().max() <= 1e-4 * scale
    assert not found[:, :, h:].any()
    assert not found[:, :, :, w:].any()


VARIANTS = {
    "glnet_4g": {"depths": (1, 1, 2, 1)},
    "glnet_stl": {"depths": (1, 1, 1, 1)},
    "glnet_stl_paramslot": {"depths": (1, 1, 1, 1)},
    "glnet_16g": {"depths": (1, 1, 2, 1), "widths": (32, 64, 96, 128)},
    "test_glnet": {},
}


@pytest.mark.parametrize("sizes", [SIZES, ODD], ids=["multiples of 32", "odd sizes"])
@pytest.mark.parametrize("name", VARIANTS)
@torch.no_grad()
def test_results_in_a_padded_batch_equal_those_of_the_single_image(name, sizes):
    model = varied(timm.create_model(name, **VARIANTS[name]))
    batch, mask, images = padded(sizes)
    final, maps = model.forward_intermediates(batch, norm=True, mask=mask)
    assert torch.equal(final, model.forward_features(batch, mask))
    for i, image in enumerate(images):
        alone, alone_maps = model.forward_intermediates(image[None], norm=True)
        for found, expected in zip([*maps, final], [*alone_maps, alone], strict=True):
            assert_alike(found[i : i + 1], expected)


@pytest.mark.parametrize(
    "options",
    [
        {"clustering": "kmeans"},
        {"clustering": "static"},
        {"mixers": "glmix"},
        {"mixers": "attn"},
        {"slots": False},
        {"output_stride": 8},
        {"output_stride": 16, "transition_order": "norm_conv", "transition_kernel": 2, "stem": "patch"},
        {"slot_grid": (3, 5)},
    ],
    ids=str,
)
@torch.no_grad()
def test_every_option_takes_a_padded_batch(options):
    model = varied(timm.create_model("test_glnet", **{**SMALL, **options}))
    batch, mask, images = padded(SIZES)
    found = model.forward_features(batch, mask)
    for i, image in enumerate(images):
        assert_alike(found[i : i + 1], model.forward_features(image[None]))


@torch.no_grad()
def test_without_padding_a_mask_changes_nothing():
    model = varied(timm.create_model("test_glnet"))
    x = torch.randn(2, 3, 96, 64)
    masked = model.forward_features(x, torch.ones(2, 96, 64, dtype=torch.bool))
    torch.testing.assert_close(masked, model.forward_features(x), rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_padding_has_no_effect_in_half_precision():
    model = varied(timm.create_model("test_glnet")).to(torch.bfloat16)
    batch, mask, _ = padded(SIZES)
    assert model.forward_features(batch.bfloat16(), mask).isfinite().all()


def test_no_gradient_flows_into_padding():
    model = varied(timm.create_model("test_glnet", **SMALL)).train()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval()
    batch, mask, _ = padded(SIZES)
    grads = []
    for checkpointing in (False, True):
        model.set_grad_checkpointing(checkpointing)
        x = batch.clone().requires_grad_()
        model.forward_features(x, mask).square().sum().backward()
        grads.append(x.grad)
    assert not grads[0].masked_select(~mask.unsqueeze(1)).any()
    assert grads[0].masked_select(mask.unsqueeze(1)).any()
    torch.testing.assert_close(grads[0], grads[1])


@pytest.mark.parametrize(
    "mask",
    [torch.ones(2, 64, 64), torch.ones(2, 32, 64, dtype=torch.bool), torch.ones(1, 64, 64, dtype=torch.bool)],
    ids=["float", "size", "batch"],
)
def test_an_invalid_mask_raises_an_error(mask):
    model = timm.create_model("test_glnet")
    with pytest.raises(ValueError, match=r"must be boolean of shape \[2, 64, 64\]"):
        model.forward_features(torch.randn(2, 3, 64, 64), mask)


def test_a_slot_grid_that_follows_the_aspect_ratio_rejects_padding():
    model = timm.create_model("test_glnet", slot_aspect=True)
    with pytest.raises(ValueError, match="fixed slot grid"):
        model.forward_features(torch.randn(1, 3, 64, 64), torch.ones(1, 64, 64, dtype=torch.bool))


def test_a_pass_without_mask_calls_no_padding_function(monkeypatch):
    import glmix.layers.padding as padding

    def refuse(*args, **kwargs):
        raise AssertionError("called without a mask")

    model = timm.create_model("test_glnet")
    for name in ("attention_bias", "cells_of", "check_mask", "fill_padding", "pool_masked"):
        monkeypatch.setattr(padding, name, refuse)
        for module in ("slots", "mixer", "stem"):
            if hasattr(getattr(glmix.layers, module), name):
                monkeypatch.setattr(getattr(glmix.layers, module), name, refuse)
    model(torch.randn(1, 3, 64, 64))


# ---- the backbone of dense prediction


@torch.no_grad()
def test_a_pyramid_gives_the_normalised_maps_of_the_stages():
    model = varied(timm.create_model("test_glnet"))
    x = torch.randn(1, 3, 64, 96)
    raw = model.forward_intermediates(x, [1, 3], intermediates_only=True)
    pyramid = glmix.Pyramid(model, (1, 3)).eval()
    assert pyramid.channels == [m.shape[1] for m in raw]
    assert pyramid.reductions == [8, 32]
    for found, expected in zip(pyramid(x), raw, strict=True):
        normalised = nn.functional.layer_norm(expected.movedim(1, 3), expected.shape[1:2]).movedim(3, 1)
        torch.testing.assert_close(found, normalised, atol=1e-5, rtol=1e-4)
    assert isinstance(pyramid.model.head.fc, nn.Identity)
    assert isinstance(pyramid.model.norm, nn.Identity)


def test_a_pyramid_can_freeze_the_statistics_and_train_the_weights():
    pyramid = glmix.Pyramid(timm.create_model("test_glnet"), (0, 1), frozen_statistics=True).train()
    norms = [m for m in pyramid.modules() if isinstance(m, nn.BatchNorm2d)]
    before = [n.running_mean.clone() for n in norms]
    sum(m.sum() for m in pyramid(torch.randn(2, 3, 64, 64) + 3)).backward()
    assert norms
    assert all(torch.equal(n.running_mean, b) for n, b in zip(norms, before, strict=True))
    assert all(n.weight.grad is not None for n in norms)
    assert any(isinstance(m, Block) and m.training for m in pyramid.modules())
