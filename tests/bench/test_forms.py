"""Parsing of forms and model specifications, and errors for invalid ones."""

import pytest
import torch

from glmix.bench.forms import WORDS, Form
from glmix.bench.passes import prepare, prepare_training
from glmix.bench.specs import ModelSpec


@pytest.mark.parametrize(
    ("text", "network", "runtime", "precision"),
    [
        ("eager", "eager", "", "float32"),
        ("bf16", "eager", "", "bfloat16"),
        ("channels_last+compiled", "eager", "compiled", "float32"),
        ("compiled+bf16+fused", "fused", "compiled", "bfloat16"),
        ("optimized+bf16", "optimized", "", "bfloat16"),
        ("plain+onnxruntime", "plain", "onnxruntime", "float32"),
        ("int8+openvino", "eager", "openvino", "int8"),
        ("openvino+bf16", "eager", "openvino", "bfloat16"),
    ],
)
def test_forms_are_parsed(text, network, runtime, precision):
    form = Form.parse(text)
    assert (form.network, form.runtime, form.precision) == (network, runtime, precision)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("fusd", f"Unknown word 'fusd' in the form 'fusd'; the words are {', '.join(WORDS)}."),
        ("", "Unknown word ''"),
        ("plain+fused", "only one of eager, plain, fused, optimized"),
        ("compiled+openvino", "only one of compiled, onnxruntime, openvino"),
        ("bf16+bf16", "a word twice"),
        ("int8", "int8 needs onnxruntime or openvino"),
        ("plain+int8+openvino", "eager or fused, not with plain"),
        ("bf16+onnxruntime", "onnxruntime computes in float32"),
        ("channels_last+openvino", "eager or fused in PyTorch"),
        ("plain+channels_last", "eager or fused in PyTorch"),
        ("optimized+onnxruntime", "optimized needs PyTorch"),
        ("bf16+cuda_graphs", "cuda_graphs needs compiled"),
        ("keep_memory+openvino", "keep_memory needs PyTorch"),
    ],
)
def test_invalid_forms_raise_an_error(text, words):
    with pytest.raises(ValueError, match=r"Unknown word|is invalid") as refused:
        Form.parse(text)
    assert words in str(refused.value)


def test_training_supports_only_some_forms():
    assert Form.parse("plain+bf16", training=True).precision == "bfloat16"
    with pytest.raises(ValueError, match="training supports only eager, plain, optimized, channels_last"):
        Form.parse("fused", training=True)


def test_model_specifications_are_parsed():
    spec = ModelSpec.parse('test_glnet(mixers=("glmix", ("glmix", "attn"), "attn", "attn"), in_chans=1)')
    assert spec.name == "test_glnet"
    assert spec.options["mixers"][1] == ("glmix", "attn")
    assert spec.input_size() == (1, 160, 160)
    assert spec.build("meta").in_chans == 1
    assert ModelSpec.parse("convnext_tiny.fb_in1k").name == "convnext_tiny.fb_in1k"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("glnet_stll", "did you mean glnet_stl"),
        ("test_glnet(8)", "arguments as in Python"),
        ("test_glnet(depths=", "arguments as in Python"),
        ("test_glnet(depths=range(4))", "arguments as in Python"),
    ],
)
def test_invalid_model_specifications_raise_an_error(text, words):
    with pytest.raises(ValueError, match=words):
        ModelSpec.parse(text)


def test_a_model_with_a_fixed_image_size_is_built_for_the_measured_size():
    model = ModelSpec.parse("test_vit").build("meta", (96, 96))
    assert model.patch_embed.img_size == (96, 96)


@pytest.mark.parametrize(
    "form", ["eager", "plain", "channels_last", "fused", "fused+channels_last+bf16", "keep_memory", "optimized+bf16"]
)
def test_every_pytorch_form_runs(form, tmp_path):
    prepared = prepare(ModelSpec.parse("test_glnet"), Form.parse(form), (64, 64), folder=tmp_path)
    seen = []
    prepared.network.register_forward_hook(lambda module, args, out: seen.append((args[0].shape[0], out)))
    for batch in (2, 1):
        prepared.passes(batch)()
        assert seen[-1][0] == batch
        assert seen[-1][1].shape == (batch, 1000)
        assert seen[-1][1].isfinite().all()


@pytest.mark.parametrize("form", ["plain", "fused"])
def test_glnet_forms_of_other_models_raise_an_error(form, tmp_path):
    with pytest.raises(ValueError, match=f"{form} is supported only for GLNets, got a ResNet"):
        prepare(ModelSpec.parse("test_resnet"), Form.parse(form), (64, 64), folder=tmp_path)


@pytest.mark.parametrize("form", ["eager", "plain", "channels_last+keep_memory", "bf16", "optimized+bf16"])
def test_a_step_of_training_changes_the_weights(form):
    chosen = Form.parse(form, training=True)
    prepared = prepare_training(ModelSpec.parse("test_glnet(num_classes=3)"), chosen, (64, 64))
    before = [parameter.detach().clone() for parameter in prepared.network.parameters()]
    prepared.passes(2)()
    after = list(prepared.network.parameters())
    assert any(not torch.equal(a, b) for a, b in zip(before, after, strict=True))
    assert {parameter.dtype for parameter in after} == {torch.float32}
    prepared.release()
    assert all(parameter.grad is None for parameter in after)


@pytest.mark.slow
@pytest.mark.parametrize("form", ["fused+compiled", "optimized+bf16+compiled"])
def test_a_compiled_form_runs(form, tmp_path):
    prepared = prepare(ModelSpec.parse("test_glnet"), Form.parse(form), (64, 64), folder=tmp_path)
    prepared.passes(2)()


@pytest.mark.slow
def test_a_compiled_training_step_runs():
    prepared = prepare_training(ModelSpec.parse("test_glnet"), Form.parse("compiled", training=True), (64, 64))
    prepared.passes(2)()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model", "form"),
    [
        ("test_glnet", "fused+onnxruntime"),
        ("test_glnet", "int8+openvino"),
        ("test_glnet", "fused+openvino+bf16"),
        ("test_glnet", "plain+openvino"),
        ("test_resnet", "onnxruntime"),
    ],
)
def test_an_exported_form_runs(model, form, tmp_path):
    chosen = Form.parse(form)
    for library in ("onnxscript", chosen.runtime):
        pytest.importorskip(library)
    prepared = prepare(ModelSpec.parse(model), chosen, (64, 64), folder=tmp_path, threads=1)
    for batch in (2, 1):
        prepared.passes(batch)()
    assert prepared.keeps_memory
