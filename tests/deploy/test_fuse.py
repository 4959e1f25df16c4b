"""A fused model computes the same function and supports the same uses, for every model and option."""

import copy
import io
from concurrent.futures import ThreadPoolExecutor

import pytest
import timm
import torch
from timm.layers import LayerScale2d
from torch import Tensor, nn
from torch.export import Dim

import glmix
from glmix.deploy.fuse import fuse
from glmix.layers import ResidualConv2d
from glmix.models import MODEL_NAMES
from glmix.slots import slot_maps
from tests.deploy.models import FEW, trained

SIZES = [(64, 64), (45, 100), (97, 61)]
X = torch.randn(2, 3, 64, 96, generator=torch.Generator().manual_seed(0))


def agree(got: Tensor, expected: Tensor, tolerance: float = 1e-5) -> None:
    """Compare with a tolerance relative to the largest element."""
    assert got.shape == expected.shape
    assert got.dtype == expected.dtype
    assert (got - expected).abs().max() <= tolerance * expected.abs().max()


def count(model: nn.Module, *kinds: type[nn.Module]) -> int:
    return sum(isinstance(module, kinds) for module in model.modules())


@pytest.fixture(scope="module")
def pair() -> tuple[glmix.GLNet, glmix.GLNet]:
    """A small model and its fused copy, for tests that do not change them."""
    model = trained("test_glnet", layer_scale=0.5)
    return model, fuse(model)


SHALLOW = {"depths": (1, 1, 2, 1), "num_classes": 10}  # every kind of block of a variant
WIDER = ("glnet_9g", "glnet_9g_tklb", "glnet_16g")  # as glnet_4g; the option "layer scales" is that of glnet_16g


@pytest.mark.parametrize(
    ("name", "options"),
    [
        *((name, SHALLOW) for name in MODEL_NAMES if name not in WIDER),
        *(pytest.param(name, {}, marks=pytest.mark.slow) for name in MODEL_NAMES),
    ],
)
def test_every_model_computes_the_same_at_any_size(name, options):
    model = trained(name, **options)
    fused = fuse(model)
    assert count(fused, nn.BatchNorm2d, LayerScale2d, ResidualConv2d) == 0
    with torch.inference_mode():
        for size in SIZES:
            x = torch.randn(2, 3, *size)
            agree(fused(x), model(x))
        for got, expected in zip(fused.forward_intermediates(x)[1], model.forward_intermediates(x)[1], strict=True):
            agree(got, expected)


OPTIONS = {
    "norm_conv, padded": {"transition_order": "norm_conv"},
    "norm_conv, patches": {"transition_order": "norm_conv", "transition_kernel": 2, "stem": "patch"},
    "norm_conv, patches, dilated": {"transition_order": "norm_conv", "transition_kernel": 2, "output_stride": 8},
    "conv_norm, patches, dilated": {"transition_kernel": 2, "output_stride": 8},
    "dilated": {"output_stride": 8},
    "no depthwise convolutions": {"pos_conv": False, "mlp_conv": False},
    "layer scales": {"layer_scale": 0.5},
    "layer scales, no local branch": {"layer_scale": 0.5, "local": False},
    "layer scales, no slots": {"layer_scale": 0.5, "slots": False},
    "layer scales, no slot attention": {"layer_scale": 0.5, "slot_attention": False},
    "learned seeds": {"seeds": "learned"},
    "k-means": {"clustering": "kmeans"},
    "static": {"clustering": "static"},
    "slots follow the image": {"slot_aspect": True},
    "attention alone": {"mixers": ("attn",) * 4},
    "largest pooled": {"global_pool": "max"},
    "mean and largest pooled": {"global_pool": "catavgmax"},
    "no pooling": {"num_classes": 0, "global_pool": ""},
    "no classifier": {"num_classes": 0},
    "drop path, dropout": {"drop_path_rate": 0.3, "drop_rate": 0.3},
    "grey": {"in_chans": 1},
}


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_every_option_computes_the_same(options):
    model = trained("test_glnet", **options).double()
    fused = fuse(model)
    with torch.inference_mode():
        for size in SIZES[1:]:
            x = torch.randn(2, model.in_chans, *size, dtype=torch.float64)
            agree(fused(x), model(x), 1e-12)


def test_operations_whose_fusion_is_not_exact_are_kept():
    padded = fuse(trained("test_glnet", transition_order="norm_conv"))
    assert all(isinstance(stage.downsample.norm, nn.BatchNorm2d) for stage in padded.stages[1:])
    assert isinstance(fuse(trained("test_glnet", global_pool="max")).norm, nn.BatchNorm2d)
    unattended = fuse(trained("test_glnet", layer_scale=0.5, slot_attention=False))
    assert isinstance(unattended.stages[0].blocks[0].ls1, LayerScale2d)
    assert isinstance(unattended.stages[0].blocks[0].ls2, nn.Identity)
    block = fuse(trained("test_glnet")).stages[0].blocks[0]
    assert block.norm1.weight is not None  # soft clustering looks at the norms of pixels
    assert block.norm2.weight is None


def test_the_original_model_is_not_changed():
    model = trained("test_glnet", layer_scale=0.5).train()
    state = copy.deepcopy(model.state_dict())
    fuse(model)
    assert model.training
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert list(model.state_dict()) == list(state)
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())


def test_training_a_fused_model_raises_an_error(pair):
    fused = copy.deepcopy(pair[1])
    with pytest.raises(RuntimeError, match=r"fused for inference.*Train the original model"):
        fused.train()
    agree(fused(X), pair[1](X), 0)
    assert not any(parameter.requires_grad for parameter in fused.parameters())
    assert not fused.eval().training
    with pytest.raises(RuntimeError, match="fused for inference"):
        nn.Sequential(fused).train()


def test_fusing_again_changes_nothing(pair):
    again = fuse(pair[1])
    assert again.state_dict().keys() == pair[1].state_dict().keys()
    agree(again(X), pair[1](X), 0)


def test_models_without_a_block_raise_an_error():
    with pytest.raises(ValueError, match="Linear contains no GLNet block"):
        fuse(nn.Linear(2, 2))
    graph = timm.create_model("test_glnet", features_only=True, feature_cls="fx").eval()
    with pytest.raises(ValueError, match="use the original model"):
        fuse(graph)


def test_final_features_lack_the_norm_if_the_head_is_fused(pair):
    model, fused = pair
    apart = fuse(model, head=False)
    with torch.inference_mode():
        agree(fused.forward_head(fused.forward_features(X)), model(X))
        agree(model.norm(fused.forward_features(X)), model.forward_features(X))
        agree(apart(X), model(X))
        agree(apart.forward_features(X), model.forward_features(X))
        pooled = apart.forward_head(apart.forward_features(X), pre_logits=True)
        agree(pooled, model.forward_head(model.forward_features(X), pre_logits=True))
        agree(apart.forward_intermediates(X, norm=True)[1][-1], model.forward_intermediates(X, norm=True)[1][-1])


@pytest.mark.parametrize("name", ["test_glnet", "glnet_stl"])
def test_results_in_a_padded_batch_equal_those_of_the_single_image(name):
    model = trained(name, **SHALLOW)
    fused = fuse(model)
    mask = torch.zeros(2, 64, 96, dtype=torch.bool)
    mask[0], mask[1, :32, :64] = True, True
    with torch.inference_mode():
        together = fused.forward_intermediates(X, intermediates_only=True, mask=mask)
        expected = model.forward_intermediates(X, intermediates_only=True, mask=mask)
        alone = fused.forward_intermediates(X[1:, :, :32, :64], intermediates_only=True)
    for got, plain, one in zip(together, expected, alone, strict=True):
        agree(got, plain)
        agree(got[1:, :, : one.shape[2], : one.shape[3]], one)


def test_slot_maps_are_unchanged():
    model = trained("test_glnet")
    for got, expected in zip(slot_maps(fuse(model), X), slot_maps(model, X), strict=True):
        assert (got.name, got.grid, got.slot_grid) == (expected.name, expected.grid, expected.slot_grid)
        for part in ("clustering", "assignment", "slots", "mixed", "attention"):
            agree(getattr(got, part), getattr(expected, part))


def test_slots_can_be_changed(pair):
    model, fused = (copy.deepcopy(one) for one in pair)
    for one in (model, fused):
        one.set_slot_grid((3, 5))
    agree(fused(X), model(X))


def test_its_state_is_saved_and_loaded(pair, tmp_path):
    _, fused = pair
    torch.save(fused.state_dict(), tmp_path / "fused.pth")
    again = fuse(timm.create_model("test_glnet", layer_scale=0.5))
    again.load_state_dict(torch.load(tmp_path / "fused.pth"))
    agree(again(X), fused(X), 0)

    whole = io.BytesIO()
    torch.save(fused, whole)
    whole.seek(0)
    agree(torch.load(whole, weights_only=False)(X), fused(X), 0)


@pytest.fixture(scope="module")
def few() -> tuple[glmix.GLNet, glmix.GLNet]:
    """A model with two blocks and its fused copy."""
    model = trained("test_glnet", layer_scale=0.5, **FEW)
    return model, fuse(model)


def test_it_can_be_exported_with_any_size_and_batch(few):
    model, fused = few
    sizes = {0: Dim("batch", min=1, max=64), 2: Dim("height", min=64, max=2048), 3: Dim("width", min=64, max=2048)}
    program = torch.export.export(fused, (torch.randn(2, 3, 96, 128),), dynamic_shapes=(sizes,))
    whole = io.BytesIO()
    torch.export.save(program, whole)
    whole.seek(0)
    exported = torch.export.load(whole).module()
    for shape in [(1, 3, 64, 64), (3, 3, 97, 130)]:
        x = torch.randn(shape)
        with torch.no_grad():
            agree(exported(x), model(x))


def test_it_compiles_without_a_break(few):
    model, fused = few
    compiled = torch.compile(fused, backend="aot_eager", fullgraph=True)
    with torch.inference_mode():
        agree(compiled(X), model(X))


def test_it_can_be_scripted(pair):
    model, fused = pair
    agree(torch.jit.script(fused)(X), model(X))


def test_half_precision_models_keep_their_dtype(pair):
    fused = fuse(copy.deepcopy(pair[0]).to(torch.bfloat16))
    assert {parameter.dtype for parameter in fused.parameters()} == {torch.bfloat16}
    agree(fused(X.bfloat16()).float(), pair[0](X), 0.05)


def test_weights_keep_their_memory_format(pair):
    fused = fuse(copy.deepcopy(pair[0]).to(memory_format=torch.channels_last))
    assert fused.stages[1].downsample.conv.weight.is_contiguous(memory_format=torch.channels_last)
    agree(fused(X), pair[0](X))


def test_many_threads_get_the_same_answers(pair):
    _, fused = pair
    images = [torch.randn(1, 3, 64, 32 + 8 * i) for i in range(16)]
    with torch.inference_mode():
        expected = [fused(x) for x in images]

    def answer(x: Tensor) -> Tensor:
        with torch.inference_mode():
            return fused(x)

    with ThreadPoolExecutor(8) as pool:
        for got, wanted in zip(pool.map(answer, images * 4), expected * 4, strict=True):
            agree(got, wanted, 1e-6)


@pytest.mark.parametrize("feature_cls", ["list", "dict", "hook", "getter"])
def test_feature_extractors_are_fused_too(feature_cls):
    model = timm.create_model("test_glnet", features_only=True, feature_cls=feature_cls).eval()
    fused = fuse(model)
    assert count(fused, nn.BatchNorm2d) <= 1  # what timm's getter keeps behind the stages
    maps = [one(X).values() if feature_cls == "dict" else one(X) for one in (fused, model)]
    for got, expected in zip(*maps, strict=True):
        agree(got, expected)


def test_pyramids_are_fused_too():
    model = glmix.Pyramid(trained("test_glnet", layer_scale=0.5)).eval()
    for got, expected in zip(fuse(model)(X), model(X), strict=True):
        agree(got, expected)


def test_networks_around_it_are_fused_too():
    smp = pytest.importorskip("segmentation_models_pytorch")
    model = smp.FPN("tu-test_glnet", encoder_weights=None, classes=3).eval()
    agree(fuse(model)(X), model(X))
