"""Models agree with the reference implementation, fused or not and in any memory format."""

import pytest
import timm
import torch

from glmix.bench.plain import plain_form
from glmix.deploy import fuse
from glmix.models import MODEL_NAMES
from tests.deploy.models import trained


@pytest.mark.parametrize("name", MODEL_NAMES)
def test_every_model_agrees_with_its_plain_form(name: str) -> None:
    model = trained(name, depths=(1, 1, 2, 1), num_classes=11)
    x = torch.randn(2, 3, 75, 102)
    with torch.no_grad():
        wanted = plain_form(model)(x)
        for form in (model, fuse(model), fuse(model).to(memory_format=torch.channels_last)):
            assert (form(x) - wanted).abs().max() <= 1e-5 * wanted.abs().max()


def test_gradients_agree_with_the_plain_form() -> None:
    model = trained("test_glnet", num_classes=5).train()
    plain = plain_form(model)
    x, target = torch.randn(4, 3, 64, 64), torch.arange(4)
    for form in (model, plain):
        torch.nn.functional.cross_entropy(form(x), target).backward()
    wanted = {name: parameter.grad for name, parameter in plain.named_parameters()}
    for name, found in (
        ("stem.conv1.weight", model.stem.layers.conv1.weight.grad),
        ("stages.0.0.slots.bridge.scale", model.stages[0].blocks[0].mixer.bridge.scale.grad),
        ("stages.0.0.slots.attention.in_proj_weight", model.stages[0].blocks[0].mixer.attn.qkv.weight.grad),
        ("stages.3.0.norm1.weight", model.stages[3].blocks[0].norm1.weight.grad),
    ):
        torch.testing.assert_close(wanted[name], found, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("option", [{"clustering": "kmeans"}, {"slot_aspect": True}])
def test_unsupported_models_raise_an_error(option: dict) -> None:
    with pytest.raises(ValueError, match="soft clustering on a fixed slot grid"):
        plain_form(timm.create_model("test_glnet", **option))


@pytest.mark.parametrize(
    "option", [{"seeds": "learned"}, {"slots": False}, {"local": False}, {"slot_attention": False}]
)
def test_the_plain_form_supports_the_ablations(option: dict) -> None:
    model = trained("test_glnet", **option)
    x = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        torch.testing.assert_close(plain_form(model)(x), model(x), rtol=1e-4, atol=1e-5)
