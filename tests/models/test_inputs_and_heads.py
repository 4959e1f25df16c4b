"""Tests of input dtypes and of classifiers without pooling."""

import pytest
import timm
import torch
from torch import nn

import glmix
from glmix.errors import InputError


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int64, torch.float64, torch.bool])
@pytest.mark.parametrize("autocast", [False, True])
def test_images_of_another_dtype_raise_an_error(dtype, autocast):
    model = timm.create_model("test_glnet").eval()
    x = torch.ones(1, 3, 64, 64, dtype=dtype)
    with torch.autocast("cpu", enabled=autocast), pytest.raises(InputError) as error:
        model(x)
    assert str(dtype) in str(error.value)
    assert "torch.float32" in str(error.value)
    with pytest.raises(InputError, match=r"torch\.bfloat16"):
        model.bfloat16()(x)
    with pytest.raises(InputError, match=str(dtype)):
        glmix.optimize_for_inference(timm.create_model("test_glnet"), dtype=torch.float32, compile=False)(x)


@pytest.mark.parametrize("image", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("weights", [torch.float32, torch.bfloat16])
def test_autocast_accepts_images_in_half_precision(image, weights):
    model = timm.create_model("test_glnet").eval().to(weights)
    with torch.autocast("cpu", dtype=torch.bfloat16), torch.no_grad():
        assert model(torch.rand(1, 3, 64, 64, dtype=image)).isfinite().all()


@pytest.mark.parametrize("name", ["test_glnet", "glnet_4g_tklb"])
def test_the_mean_of_the_logit_map_without_pooling_equals_the_pooled_logits(name):
    shallow = {"num_classes": 7, "depths": (1, 1, 2, 1)}
    model = timm.create_model(name, **shallow, global_pool="").eval()
    assert model.head.fc.bias.abs().max() == 0
    x = torch.randn(2, 3, 64, 96)
    with torch.no_grad():
        logits = model(x)
        assert logits.shape == (2, 7, 2, 3)
        assert model.forward_head(model.forward_features(x), pre_logits=True).shape == (2, model.num_features, 2, 3)
        for graph in (torch.jit.script(model), torch.fx.symbolic_trace(model), glmix.fuse(model)):
            torch.testing.assert_close(graph(x), logits, rtol=1e-4, atol=1e-4)
        pooled = timm.create_model(name, **shallow).eval()
        state = model.state_dict()
        pooled.load_state_dict({k: v.flatten(1) if k == "head.fc.weight" else v for k, v in state.items()})
        torch.testing.assert_close(logits.mean((2, 3)), pooled(x), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["test_glnet", "glnet_4g_tklb", "convnext_atto"])
def test_resetting_a_classifier_changes_between_maps_and_pooled_logits(name):
    depths = {} if name == "convnext_atto" else {"depths": (1, 1, 2, 1)}
    model = timm.create_model(name, num_classes=3, device="meta", **depths).eval()
    x = torch.empty(2, 3, 64, 96, device="meta")
    for classes, pool, shape, layer in [
        (5, "", (2, 5, 2, 3), nn.Conv2d),
        (6, None, (2, 6, 2, 3), nn.Conv2d),
        (5, "avg", (2, 5), nn.Linear),
        (0, "", (2, model.num_features, 2, 3), nn.Identity),
        (4, "max", (2, 4), nn.Linear),
    ]:
        model.reset_classifier(classes, pool)
        assert model.to("meta")(x).shape == shape  # timm 1.0.22 makes the new layer of a ConvNeXt on the CPU
        assert type(model.head.fc) is layer


def test_logits_without_pooling_stay_in_float32_in_half_precision_models():
    model = timm.create_model("test_glnet", num_classes=7, global_pool="").eval()
    fast = glmix.optimize_for_inference(model, dtype=torch.bfloat16, compile=False, keep_memory=False)
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        logits = fast(x)
        assert logits.dtype == torch.float32
        torch.testing.assert_close(logits, model(x), rtol=0.05, atol=0.05)
