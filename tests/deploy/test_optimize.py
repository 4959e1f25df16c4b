"""optimize_for_inference does not change the function of a model."""

import pickle
from concurrent.futures import ThreadPoolExecutor

import pytest
import timm
import torch
from timm.layers import Attention
from torch import nn

import glmix
from glmix.bench.plain import plain_form
from glmix.deploy.optimize import can_compile, fastest_dtype, optimize_for_inference
from glmix.deploy.parts import BandedMlp, BoundedBridge
from glmix.layers import ConvMlp, ShortAttention, SoftBridge
from glmix.slots import slot_maps
from tests.deploy.models import FEW, trained
from tests.processes import Command

X = torch.randn(2, 3, 75, 102, generator=torch.Generator().manual_seed(0))


def error(found: torch.Tensor, expected: torch.Tensor) -> float:
    return ((found.float() - expected).abs().max() / expected.abs().max()).item()


@pytest.mark.parametrize("name", ["test_glnet", "glnet_stl", "glnet_4g_tklb"])
def test_float32_results_agree_with_the_reference_implementation(name):
    model = trained(name, depths=(1, 1, 2, 1), num_classes=7)
    fast = optimize_for_inference(model, dtype=torch.float32, compile=False)
    assert type(fast) is type(model)
    assert error(fast(X), plain_form(model)(X)) <= 1e-5
    assert slot_maps(fast, X)[0].assignment.shape == slot_maps(model, X)[0].assignment.shape


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_models_take_float32_images_and_return_float32_logits(dtype):
    model = trained("test_glnet", num_classes=7)
    fast = optimize_for_inference(model, dtype=dtype, compile=False)
    with torch.inference_mode():
        assert fast(X).dtype == torch.float32
        assert error(fast(X), model(X)) <= 0.05
        assert fast.forward_features(X).dtype == dtype
    assert fast.stages[0].blocks[0].mixer.bridge.scale.dtype == torch.float32
    assert fast.head.fc.weight.dtype == torch.float32


@pytest.mark.parametrize("depthwise", [False, True])
@pytest.mark.parametrize("dilation", [1, 2])
@pytest.mark.parametrize("rows", [1, 3, 11, 50, 200])
def test_banded_mlp_agrees_with_the_mlp(monkeypatch, depthwise, dilation, rows):
    mlp = ConvMlp(16, 48, depthwise=depthwise, dilation=dilation).eval()
    x = torch.randn(3, 16, 33, 20)
    wanted = mlp(x)
    seen = []
    mlp.fc1.register_forward_hook(lambda _, __, h: seen.append(h.nbytes))
    mlp.__class__ = BandedMlp
    monkeypatch.setattr(BandedMlp, "MAX_HIDDEN_BYTES", rows * 48 * 20 * 4)
    torch.testing.assert_close(mlp(x), wanted, rtol=1e-5, atol=1e-6)
    beyond = 2 * dilation * depthwise
    assert max(seen) <= 48 * 20 * 4 * (max(rows, 4) + beyond)  # at most 32 bands of 99 rows
    assert len(seen) <= 33
    mask = torch.ones(3, 33, 20, dtype=torch.bool)
    assert torch.equal(mlp(x, mask), ConvMlp.forward(mlp, x, mask))


@pytest.mark.parametrize("scale", [0.1, -3.0, 40.0])
def test_bounded_bridge_agrees_with_soft_clustering(scale):
    bridge = SoftBridge(16, (4, 4), scale=scale)
    y, x = torch.randn(2, 2, 16, 9, 12).double()
    x[0, :, :3, :3] = y[0, :, :3, :3] = 0  # nothing but black
    wanted = bridge.double()(y, x)
    bridge.float().__class__ = BoundedBridge
    for found, exact in zip(bridge(y.float(), x.float()), wanted, strict=True):
        torch.testing.assert_close(found, exact.float(), rtol=2e-5, atol=1e-7)
    mask = torch.ones(2, 9, 12, dtype=torch.bool)
    assert torch.equal(bridge(y.float(), x.float(), mask)[0], SoftBridge.forward(bridge, y.float(), x.float(), mask)[0])


def test_a_scale_without_a_safe_bound_keeps_two_softmaxes():
    model = trained("test_glnet")
    model.stages[0].blocks[0].mixer.bridge.scale.data.fill_(100.0)
    fast = optimize_for_inference(model, dtype=torch.float32, compile=False)
    assert error(fast(X), model(X)) <= 1e-5
    kinds = [type(part) for part in fast.modules() if isinstance(part, SoftBridge)]
    assert kinds == [SoftBridge] + [BoundedBridge] * (len(kinds) - 1)


def test_a_model_with_the_layers_of_training_gets_those_of_inference():
    model = glmix.optimize_for_training(trained("test_glnet"))
    fast = optimize_for_inference(model, dtype=torch.float32, compile=False)
    assert error(fast(X), model(X)) <= 1e-5
    assert {type(part) for part in fast.modules() if isinstance(part, SoftBridge)} == {BoundedBridge}


def test_short_attention_is_used_only_for_bfloat16_on_a_cpu():
    model = trained("test_glnet")
    for dtype, wanted in ((torch.bfloat16, ShortAttention), (torch.float32, Attention)):
        fast = optimize_for_inference(model, dtype=dtype, compile=False)
        assert {type(part) for part in fast.modules() if isinstance(part, Attention)} == {wanted}


def test_the_original_model_is_not_changed():
    model = trained("test_glnet").train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    optimize_for_inference(model, dtype=torch.bfloat16, compile=False)
    assert model.training
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    with pytest.raises(RuntimeError, match="fused for inference and cannot be trained"):
        optimize_for_inference(model, dtype=torch.float32, compile=False).train()


def test_other_networks_and_pyramids_are_supported():
    other = timm.create_model("test_resnet", num_classes=4).eval()
    with torch.inference_mode():
        assert error(optimize_for_inference(other, dtype=torch.float32, compile=False)(X), other(X)) <= 1e-5
        assert optimize_for_inference(other, dtype=torch.bfloat16, compile=False)(X).dtype == torch.float32
        pyramid = glmix.Pyramid(trained("test_glnet")).eval()
        fast = optimize_for_inference(pyramid, dtype=torch.float32, compile=False)
        for found, expected in zip(fast(X), pyramid(X), strict=True):
            assert error(found, expected) <= 1e-5


@pytest.mark.skipif(not can_compile(), reason="no compiler")
def test_compiled_weights_are_packed_constants():
    from torch._dynamo.utils import counters

    model = trained("test_glnet", **FEW, num_classes=3)
    fast = optimize_for_inference(model, dtype=torch.float32, compile=True)
    counters.clear()
    torch.compiler.reset()
    with torch.no_grad():
        assert error(fast(X), model(X)) <= 1e-5
    assert counters["inductor"]["mkldnn_conv_weight_pack_matcher_count"] > 0
    assert not torch._inductor.config.freezing, "the process keeps its own setting"
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(fast, [X] * 8))
    assert all(torch.equal(answer, answers[0]) for answer in answers)


@pytest.mark.slow  # test_processes_that_share_a_model... saves one that is not compiled
@pytest.mark.skipif(not can_compile(), reason="no compiler")
def test_a_pickled_compiled_model_is_compiled_anew():
    model = trained("test_glnet", **FEW, num_classes=3)
    fast = optimize_for_inference(model, dtype=torch.float32, compile=True)
    again = pickle.loads(pickle.dumps(fast))  # whoever reads it compiles anew
    with torch.no_grad():
        assert error(again.forward(X), model(X)) <= 1e-5


def test_processes_that_share_a_model_get_the_same_answers(tmp_path):
    model = optimize_for_inference(trained("test_glnet", num_classes=3), dtype=torch.float32, compile=False)
    torch.save(model, tmp_path / "model.pt")
    torch.save(X, tmp_path / "x.pt")
    code = (
        "import torch\n"
        "model = torch.load('model.pt', weights_only=False, mmap=True)\n"
        "print(model(torch.load('x.pt')).tolist())"
    )
    jobs = [Command(cwd=tmp_path, code=code) for _ in range(3)]
    answers = {job.communicate()[0] for job in jobs}
    assert len(answers) == 1
    torch.testing.assert_close(torch.tensor(eval(answers.pop())), model(X), rtol=1e-4, atol=1e-5)


def test_the_defaults_depend_on_the_machine(monkeypatch):
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False)
    assert fastest_dtype("cpu") == torch.float32
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: True)
    assert fastest_dtype("cpu") == torch.bfloat16
    monkeypatch.setattr("shutil.which", lambda name: None)
    assert not can_compile("cpu")
    with pytest.raises(ValueError, match=r"must be torch\.float32, .* got torch\.int8"):
        optimize_for_inference(nn.Linear(2, 2), dtype=torch.int8)
