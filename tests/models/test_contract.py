"""The timm model interface, tested for every model."""

import copy
import io
import pickle
from pathlib import Path

import pytest
import timm
import torch
from torch import nn
from torch.export import Dim

from glmix.models import MODEL_NAMES, GLNet, GLNetTokenLabel
from tests.deploy.models import FEW

LARGE = ("glnet_9g", "glnet_9g_tklb", "glnet_16g")
ALL = [pytest.param(name, marks=pytest.mark.slow if name in LARGE else ()) for name in MODEL_NAMES]
SMALL = ["test_glnet", "glnet_nano"]
# one block of each kind in each stage, for what does not depend on the number of blocks
SHALLOW = {"depths": (1, 1, 2, 1), "num_classes": 10}
# Capturing a graph takes long and depends on the kinds of blocks alone: models with two blocks have them all.
EVERY = [pytest.param(name, {}, marks=pytest.mark.slow) for name in MODEL_NAMES]
FEATURE_CLASSES = ["list", "dict", "hook", "fx", "getter"]


def make(name: str, **kwargs) -> GLNet:
    return timm.create_model(name, **kwargs)


def close(a: torch.Tensor, b: torch.Tensor) -> None:
    torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def grid_of(reduction: int, height: int, width: int, patch: bool) -> tuple[int, int]:
    """Return the size of a feature map: overlapping stems round up, patch stems round down."""
    if patch:
        return height // reduction, width // reduction
    return -(-height // reduction), -(-width // reduction)


@pytest.fixture(scope="module", params=ALL)
def model(request) -> GLNet:
    """One instance of each model, for tests that do not change it."""
    return make(request.param).eval()


@pytest.fixture(scope="module", params=ALL)
def shallow(request) -> GLNet:
    """One instance of each model with few blocks, for tests that do not change it."""
    return make(request.param, **SHALLOW).eval()


@pytest.mark.parametrize("size", [(64, 64), (32, 32), (45, 100)])
def test_images_of_any_size_give_finite_logits(model, size):
    with torch.inference_mode():
        features = model.forward_features(torch.randn(2, 3, *size))
        logits = model.forward_head(features)
    assert features.shape == (2, model.num_features, *grid_of(32, *size, model.stem.layers[0].kernel_size[0] == 4))
    assert logits.shape == (2, 1000)
    assert logits.isfinite().all()


def test_the_memory_format_of_the_images_changes_nothing(shallow):
    x = torch.randn(2, 3, 64, 96)
    with torch.inference_mode():
        close(shallow(x.contiguous(memory_format=torch.channels_last)), shallow(x))


@pytest.mark.parametrize("name", ALL)
def test_backward_reaches_every_parameter(name):
    model = make(name, **SHALLOW).train()
    logits = model(torch.randn(2, 3, 64, 64))
    assert logits.shape == (2, 10)
    logits.mean().backward()
    without = [n for n, p in model.named_parameters() if p.grad is None]
    assert not without
    assert all(p.grad.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize("name", MODEL_NAMES)
def test_the_default_config_matches_the_model(name):
    model = make(name, depths=SHALLOW["depths"], device="meta").eval()
    cfg = model.default_cfg
    x = torch.empty(1, *cfg["input_size"], device="meta")
    features = model.forward_features(x)
    assert features.shape[-2:] == cfg["pool_size"]
    assert model.forward_head(features, pre_logits=True).shape == (1, model.head_hidden_size)
    names = set(model.state_dict())
    classifiers = [cfg["classifier"]] if isinstance(cfg["classifier"], str) else cfg["classifier"]
    assert {f"{cfg['first_conv']}.weight", *(f"{c}.weight" for c in classifiers)} <= names
    assert cfg["architecture"] == name
    assert not cfg.get("url")  # nobody hosts weights for programs, and no config may say so
    assert not cfg.get("hf_hub_id")
    assert all(t.device.type == "meta" for t in (*model.parameters(), *model.buffers()))
    assert isinstance(model.num_features, int)


@pytest.mark.parametrize("name", MODEL_NAMES)
def test_unknown_arguments_raise_an_error(name):
    with pytest.raises(TypeError, match="not_an_argument"):
        make(name, device="meta", not_an_argument=1)


def test_timm_lists_the_models():
    listed = timm.list_models("*glnet*")
    assert set(MODEL_NAMES) <= set(listed)
    assert not set(MODEL_NAMES) & set(timm.list_models(pretrained=True))


@pytest.mark.parametrize("feature_class", FEATURE_CLASSES)
def test_every_feature_class_gives_the_stages(feature_class):
    torch.manual_seed(0)
    whole = make("test_glnet").eval()
    torch.manual_seed(0)
    pyramid = make("test_glnet", features_only=True, feature_cls=feature_class).eval()
    x = torch.randn(2, 3, 64, 96)
    with torch.no_grad():
        expected = whole.forward_intermediates(x, intermediates_only=True)
        got = pyramid(x)
    got = list(got.values()) if isinstance(got, dict) else got
    assert pyramid.feature_info.reduction() == [4, 8, 16, 32]
    assert pyramid.feature_info.channels() == [f.shape[1] for f in got]
    for a, b in zip(got, expected, strict=True):
        close(a, b)


@pytest.mark.parametrize("name", ["test_glnet", "glnet_stl", "glnet_4g_tklb"])
@pytest.mark.parametrize("out_indices", [(0,), (3,), (1, 3), (0, 1, 2), (-1,)])
def test_any_subset_of_features_can_be_selected(name, out_indices):
    options = {"depths": SHALLOW["depths"], "device": "meta"}
    pyramid = make(name, features_only=True, out_indices=out_indices, **options).eval()
    outputs = pyramid(torch.empty(1, 3, 64, 64, device="meta"))
    assert [f.shape[1] for f in outputs] == pyramid.feature_info.channels()


@pytest.mark.parametrize("feature_class", FEATURE_CLASSES)
def test_features_train(feature_class):
    pyramid = make("test_glnet", features_only=True, feature_cls=feature_class).train()
    outputs = pyramid(torch.randn(2, 3, 64, 64))
    outputs = list(outputs.values()) if isinstance(outputs, dict) else outputs
    sum(f.square().mean() for f in outputs).backward()
    reached = [p for p in pyramid.parameters() if p.grad is not None]
    assert len(reached) > 0


def test_features_are_the_same_under_gradient_checkpointing():
    x = torch.randn(2, 3, 64, 64)
    gradients = []
    for enable in (False, True):
        torch.manual_seed(0)
        pyramid = make("test_glnet", features_only=True).train()
        pyramid.set_grad_checkpointing(enable)
        sum(f.square().mean() for f in pyramid(x)).backward()
        gradients.append([p.grad for p in pyramid.parameters()])
    for a, b in zip(*gradients, strict=True):
        torch.testing.assert_close(a, b)


def test_intermediates_end_in_the_final_features(shallow):
    model = shallow
    x = torch.randn(1, 3, 64, 64)
    with torch.inference_mode():
        final, stages = model.forward_intermediates(x)
        close(final, model.forward_features(x))
        assert [s.shape[1] for s in stages] == [info["num_chs"] for info in model.feature_info]
        _, last = model.forward_intermediates(x, indices=[3], norm=True)
        close(last[0], final)
        only = model.forward_intermediates(x, indices=[0, 2], stop_early=True, intermediates_only=True)
        close(only[1], stages[2])
        assert len(model.forward_intermediates(x, indices=2, intermediates_only=True)) == 2
        stopped, _ = model.forward_intermediates(x, indices=[1], stop_early=True)
        close(stopped, stages[1])
    with pytest.raises(ValueError, match="output_fmt must be 'NCHW', got 'NLC'"):
        model.forward_intermediates(x, output_fmt="NLC")


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize("index", [0, 1, 2, 3])
def test_a_pruned_model_is_the_model_up_to_its_last_stage(name, index):
    whole = make(name).eval()
    x = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        stages = whole.forward_intermediates(x, intermediates_only=True)
        pruned = copy.deepcopy(whole)
        assert pruned.prune_intermediate_layers([index], prune_norm=True) == [index]
        close(pruned.forward_features(x), stages[index])
    assert pruned.num_features == pruned.head_hidden_size == stages[index].shape[1]
    pruned.reset_classifier(5, "avg")
    assert pruned(x).shape == (2, 5)
    pruned.train()(x).sum().backward()
    assert all(p.grad is not None for p in pruned.parameters())


def test_pruning_behind_the_last_stage_can_keep_the_head():
    whole = make("test_glnet").eval()
    pruned = copy.deepcopy(whole)
    pruned.prune_intermediate_layers([3], prune_head=False)
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        close(pruned(x), whole(x))


@pytest.mark.parametrize("name", MODEL_NAMES)
def test_classifiers_can_be_reset_and_removed(name):
    model = make(name, **SHALLOW, device="meta", dtype=torch.bfloat16).eval()
    x = torch.empty(2, 3, 64, 64, device="meta", dtype=torch.bfloat16)
    model.reset_classifier(5)
    classifiers = model.get_classifier()
    for classifier in classifiers if isinstance(classifiers, tuple) else (classifiers,):
        assert classifier.weight.dtype == torch.bfloat16
        assert classifier.weight.device.type == "meta"
        assert not classifier.training
    assert model(x).shape == (2, 5)
    model.reset_classifier(0)
    features = model.forward_features(x)
    assert model.forward_head(features).shape == (2, model.num_features)
    model.reset_classifier(0, "")
    assert model.forward_head(features).shape == features.shape
    without = make(name, depths=SHALLOW["depths"], num_classes=0, global_pool="max", device="meta")
    assert without.forward_head(features.float()).shape == (2, without.num_features)


def test_resetting_a_classifier_keeps_the_pooling():
    model = make("test_glnet", global_pool="max").eval()
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        before = model.forward_head(model.forward_features(x), pre_logits=True)
        model.reset_classifier(3)
        close(model.forward_head(model.forward_features(x), pre_logits=True), before)


@pytest.mark.parametrize("in_chans", [1, 4])
@pytest.mark.parametrize("name", MODEL_NAMES)
def test_images_may_have_other_channels_than_three(name, in_chans):
    model = make(name, **SHALLOW, in_chans=in_chans, device="meta").eval()
    assert model(torch.empty(1, in_chans, 64, 64, device="meta")).shape == (1, 10)


@pytest.mark.parametrize(
    ("shape", "words"),
    [
        ((3, 64, 64), "4 dimensions"),
        ((1, 4, 64, 64), "takes images with 3 channels, got 4"),
        ((1, 3, 31, 64), "at least 32 x 32 pixels, got 64 x 31"),
    ],
)
@pytest.mark.parametrize("feature_class", [None, *FEATURE_CLASSES])
def test_images_of_wrong_shape_raise_an_error(shape, words, feature_class):
    kwargs = {} if feature_class is None else {"features_only": True, "feature_cls": feature_class}
    model = make("test_glnet", **kwargs).eval()
    with pytest.raises(ValueError, match=words):
        model(torch.randn(shape))


@pytest.mark.parametrize("name", MODEL_NAMES)
@pytest.mark.parametrize("output_stride", [8, 16])
def test_a_smaller_output_stride_keeps_the_grid_and_the_parameters(name, output_stride):
    options = {"features_only": True, "depths": SHALLOW["depths"], "device": "meta"}
    model = make(name, output_stride=output_stride, **options).eval()
    outputs = model(torch.empty(1, 3, 64, 96, device="meta"))
    reductions = model.feature_info.reduction()
    assert max(reductions) == output_stride
    assert [tuple(f.shape[-2:]) for f in outputs] == [(64 // r, 96 // r) for r in reductions]
    strided = make(name, **options)
    assert {n: p.shape for n, p in model.state_dict().items()} == {n: p.shape for n, p in strided.state_dict().items()}


def test_convolutions_after_a_transition_without_stride_are_dilated():
    model = make("test_glnet", output_stride=8)
    dilations = [
        {m.dilation[0] for m in stage.modules() if isinstance(m, nn.Conv2d) and m.kernel_size[0] > 1}
        for stage in model.stages
    ]
    assert dilations == [{1}, {1}, {1, 2}, {2, 4}]  # a transition has the dilation of the stage before it


def test_other_output_strides_raise_an_error():
    with pytest.raises(ValueError, match="output_stride must be 8, 16 or 32, got 4"):
        make("test_glnet", output_stride=4)


def test_torchscript_computes_the_same(shallow):
    x = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        close(torch.jit.script(shallow)(x), shallow(x))


def test_a_symbolic_trace_computes_the_same_at_any_size(shallow):
    traced = torch.fx.symbolic_trace(shallow)
    for size in ((64, 64), (45, 100)):
        x = torch.randn(1, 3, *size)
        with torch.no_grad():
            close(traced(x), shallow(x))


@pytest.mark.parametrize(("name", "options"), [("test_glnet", FEW), *EVERY])
def test_compiling_makes_one_graph_for_all_sizes(name, options):
    model = make(name, **options).eval()
    torch._dynamo.reset()
    backend = "eager" if options == FEW else "aot_eager"  # the graph is captured before the backend gets it
    compiled = torch.compile(model, fullgraph=True, dynamic=True, backend=backend)
    torch._dynamo.utils.counters.clear()
    for shape in ((2, 3, 64, 96), (3, 3, 100, 70), (2, 3, 128, 64)):
        x = torch.randn(shape)
        with torch.no_grad():
            close(compiled(x), model(x))
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 1
    assert not torch._dynamo.utils.counters["graph_break"]


@pytest.mark.slow
@pytest.mark.parametrize("train", [False, True])
def test_inductor_computes_the_same(train):
    model = make("test_glnet").train(train)
    torch._dynamo.reset()
    compiled = torch.compile(model, fullgraph=True, dynamic=True)
    for shape in ((2, 3, 64, 96), (3, 3, 96, 64)):
        x = torch.randn(shape)
        with torch.set_grad_enabled(train):
            close(compiled(x), model(x))


def export(model: nn.Module) -> torch.export.ExportedProgram:
    sizes = {0: Dim("batch", min=1, max=64), 2: Dim("height", min=64, max=2048), 3: Dim("width", min=64, max=2048)}
    return torch.export.export(model, (torch.randn(2, 3, 96, 128),), dynamic_shapes=(sizes,))


# test_capture.py exports test_glnet
@pytest.mark.parametrize(("name", "options"), [("glnet_stl", FEW), *EVERY])
def test_an_export_takes_any_batch_height_and_width(name, options):
    model = make(name, **options).eval()
    program = export(model).module()
    for shape in ((1, 3, 64, 64), (3, 3, 97, 130)):
        x = torch.randn(shape)
        with torch.no_grad():
            close(program(x), model(x))


@pytest.mark.slow  # tests/deploy/test_export.py runs a file of the same exporter at any size
def test_an_onnx_export_takes_any_batch_height_and_width(tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    model = make("test_glnet", **FEW).eval()
    path = tmp_path / "model.onnx"
    torch.onnx.export(export(model), dynamo=True).save(path)
    session = onnxruntime.InferenceSession(path)
    for shape in ((1, 3, 64, 64), (3, 3, 97, 130), (2, 3, 200, 72)):
        x = torch.randn(shape)
        (logits,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
        with torch.no_grad():
            torch.testing.assert_close(torch.from_numpy(logits), model(x), rtol=1e-3, atol=1e-4)


def test_gradient_checkpointing_changes_no_gradient():
    x = torch.randn(2, 3, 64, 64)
    gradients = []
    for enable in (False, True):
        torch.manual_seed(0)
        model = make("test_glnet").train()
        model.set_grad_checkpointing(enable)
        model(x).square().sum().backward()
        gradients.append([p.grad for p in model.parameters()])
    for a, b in zip(*gradients, strict=True):
        torch.testing.assert_close(a, b)


def test_copies_pickles_and_saved_weights_are_the_model(shallow, tmp_path: Path):
    model = shallow
    x = torch.randn(1, 3, 64, 64)
    torch.save(model.state_dict(), tmp_path / "weights.pth")
    weights = {"checkpoint_path": str(tmp_path / "weights.pth")}
    loaded = make(model.default_cfg["architecture"], **SHALLOW, **weights).eval()
    with torch.inference_mode():
        expected = model(x)
        for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model)), loaded):
            assert torch.equal(other(x), expected)


@pytest.mark.parametrize("name", ["glnet_stl_paramslot", "glnet_4g_tklb", "test_glnet"])
def test_a_model_from_the_meta_device_can_be_given_memory_and_weights(name):
    model = make(name, device="meta", num_classes=4).to_empty(device="cpu")
    with torch.no_grad():
        for tensor in (*model.parameters(), *model.buffers()):
            tensor.fill_(float("nan") if tensor.is_floating_point() else 0)
    model.init_weights()
    assert all(t.isfinite().all() for t in (*model.parameters(), *model.buffers()))
    assert model.eval()(torch.randn(1, 3, 64, 64)).isfinite().all()


@pytest.mark.parametrize("options", [{}, {"clustering": "kmeans"}, {"clustering": "static"}, {"seeds": "learned"}])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize("train", [False, True])
def test_constant_images_give_no_nan_in_any_precision(options, dtype, train):
    model = make("test_glnet", dtype=dtype, **options).train(train)
    for value in (0.0, 1.0, -4.0):
        logits = model(torch.full((2, 3, 32, 32), value, dtype=dtype))
        assert logits.dtype == dtype
        assert logits.isfinite().all()
        logits.float().square().sum().backward()
        assert all(p.grad.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_autocast_stays_near_float32(dtype):
    model = make("test_glnet").eval()
    x = torch.randn(4, 3, 64, 64)
    with torch.no_grad():
        expected = model(x)
        with torch.autocast("cpu", dtype):
            got = model(x).float()
            assert model(torch.zeros(1, 3, 64, 64)).isfinite().all()
    assert ((got - expected).norm() / expected.norm()) < 0.05


def test_half_of_a_model_runs_in_half_precision():
    model = make("test_glnet").eval().half()
    assert model(torch.randn(1, 3, 64, 64).half()).dtype == torch.float16


def test_initialisation_matches_the_paper():
    model = make("glnet_stl_paramslot")
    bridge = model.stages[1].blocks[0].mixer.bridge
    assert bridge.scale.shape == (1,)
    assert bridge.scale.item() == pytest.approx(192**-0.5)
    assert bridge.seeds.std().item() == pytest.approx(0.02, rel=0.1)
    qkv = model.stages[1].blocks[0].mixer.attn.qkv
    assert qkv.weight.abs().max().item() <= (6 / (192 + 3 * 192)) ** 0.5
    assert qkv.bias.abs().max() == 0
    assert model.head.fc.weight.std().item() == pytest.approx(0.02, rel=0.1)
    assert model.head.fc.bias.abs().max() == 0


def test_stochastic_depth_grows_linearly_over_all_blocks():
    model = make("test_glnet", drop_path_rate=0.4)
    blocks = [block for stage in model.stages for block in stage.blocks]
    rates = [getattr(block.drop_path1, "drop_prob", 0.0) for block in blocks]
    assert rates == pytest.approx([0.0, 0.1, 0.2, 0.3, 0.4])


@pytest.mark.parametrize("name", MODEL_NAMES)
def test_groups_for_layer_decay_and_weight_decay_match_parameters(name):
    from timm.models._manipulate import group_parameters

    model = make(name, **SHALLOW, device="meta")
    layers = group_parameters(model, model.group_matcher(coarse=False), reverse=True)
    assert len(set(layers.values())) == sum(len(stage.blocks) for stage in model.stages) + 2
    assert model.no_weight_decay() == {
        n for n, _ in model.named_parameters() if n.endswith(("bridge.scale", "bridge.seeds"))
    }


def test_every_parameter_can_be_sharded(tmp_path: Path):
    from torch.distributed import destroy_process_group, init_process_group
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    torch.manual_seed(0)
    expected = make("glnet_nano").eval()
    sharded = copy.deepcopy(expected)
    x = torch.randn(1, 3, 64, 64)
    init_process_group("gloo", store=torch.distributed.FileStore(str(tmp_path / "store"), 1), rank=0, world_size=1)
    try:
        fully_shard(sharded, mesh=init_device_mesh("cpu", (1,)))
        close(sharded(x).detach(), expected(x).detach())
        sharded(x).sum().backward()
    finally:
        destroy_process_group()


def test_token_label_logits_are_the_classifiers_plus_half_the_best_positions():
    model = make("glnet_4g_tklb", num_classes=5).eval()
    assert isinstance(model, GLNetTokenLabel)
    with torch.no_grad():
        features = model.forward_features(torch.randn(2, 3, 64, 96))
        aux = model.forward_aux(features)
        assert aux.shape == (2, 6, 5)
        close(model.forward_head(features), model.head(features) + 0.5 * aux.max(1).values)


def test_a_model_survives_torch_save(tmp_path: Path):
    model = make("test_glnet").eval()
    buffer = io.BytesIO()
    torch.save(model, buffer)
    buffer.seek(0)
    again = torch.load(buffer, weights_only=False)
    x = torch.randn(1, 3, 64, 64)
    assert torch.equal(again(x), model(x))
