"""Slot maps: agreement with the computation of the block, for wrapped models, without side effects on the model."""

import copy
import statistics
import time

import pytest
import timm
import torch
from timm.models._features_fx import FeatureGraphNet
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

import glmix
from glmix.layers import GLMix
from glmix.layers.slots import cluster, dispatch
from glmix.models import Pyramid
from glmix.slots import BlockMaps, chosen_blocks, last_blocks, recording, slot_maps

BRIDGES = {
    "soft": {},
    "learned": {"seeds": "learned"},
    "kmeans": {"clustering": "kmeans"},
    "static": {"clustering": "static"},
    "aspect": {"slot_aspect": True},
    "wide": {"slot_grid": (2, 5)},
    "no attention": {"slot_attention": False},
}
NAMES = ["stages.0.blocks.0", "stages.1.blocks.0", "stages.2.blocks.0"]  # blocks with slots of test_glnet


def make(**options: object) -> glmix.GLNet:
    torch.manual_seed(0)
    return timm.create_model("test_glnet", num_classes=5, **options).eval()


def same(ours: list[BlockMaps], theirs: list[BlockMaps]) -> None:
    assert len(ours) == len(theirs)
    for a, b in zip(ours, theirs, strict=True):
        assert (a.index, a.grid, a.slot_grid, a.scale) == (b.index, b.grid, b.slot_grid, b.scale)
        for field in ("clustering", "assignment", "slots", "mixed", "attention"):
            one, other = getattr(a, field), getattr(b, field)
            assert (one is None) == (other is None)
            if one is not None:
                torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("size", [(64, 64), (45, 100)])
@pytest.mark.parametrize("bridge", BRIDGES)
def test_weights_sum_to_one_at_block_resolution(bridge, size):
    model = make(**BRIDGES[bridge])
    maps = slot_maps(model, torch.randn(2, 3, *size))
    assert [m.name for m in maps] == NAMES
    assert [m.index for m in maps] == [0, 1, 2]
    for m, reduction, width in zip(maps, (4, 8, 16), (32, 48, 64), strict=True):
        assert m.grid == tuple(-(-side // reduction) for side in size)
        slots, pixels = m.slot_grid[0] * m.slot_grid[1], m.grid[0] * m.grid[1]
        assert m.clustering.shape == m.assignment.shape == (2, slots, pixels)
        assert m.slots.shape == m.mixed.shape == (2, slots, width)
        torch.testing.assert_close(m.assignment.sum(1), torch.ones(2, pixels))
        taken = m.clustering.sum(2)  # k-means may have empty slots
        torch.testing.assert_close(taken, torch.ones(2, slots) if bridge != "kmeans" else (taken > 0.5).float())
        assert (m.scale is None) == (bridge in ("kmeans", "static"))
        if bridge == "no attention":
            assert m.attention is None
            assert torch.equal(m.mixed, m.slots)
        else:
            assert m.attention.shape == (2, width // 16, slots, slots)
            torch.testing.assert_close(m.attention.sum(3), torch.ones(2, width // 16, slots))
    expected = {"wide": (2, 5), "aspect": (4, 4) if size == (64, 64) else (3, 5)}.get(bridge, (4, 4))
    assert {m.slot_grid for m in maps} == {expected}


@pytest.mark.parametrize("bridge", BRIDGES)
def test_recorded_maps_match_the_computation(bridge):
    model = make(local=False, **BRIDGES[bridge])
    mixers = [module for module in model.modules() if isinstance(module, GLMix) and module.bridge is not None]
    calls = []
    handles = [m.register_forward_hook(lambda mixer, args, output: calls.append((mixer, args, output))) for m in mixers]
    maps = slot_maps(model, torch.randn(2, 3, 64, 96))
    for handle in handles:
        handle.remove()
    assert len(calls) == len(maps) == 3
    for m, (mixer, args, output) in zip(maps, calls, strict=True):
        pixels = args[0].flatten(2).transpose(1, 2)
        torch.testing.assert_close(m.slots, cluster(m.clustering, pixels))
        torch.testing.assert_close(dispatch(m.assignment, m.mixed), output.flatten(2).transpose(1, 2))
        if mixer.attn is not None:  # the weights map `slots` to `mixed`
            value = mixer.attn.qkv(m.slots).unflatten(2, (3, mixer.attn.num_heads, -1))[:, :, 2].transpose(1, 2)
            torch.testing.assert_close(
                mixer.attn.proj((m.attention @ value).transpose(1, 2).flatten(2)), m.mixed, rtol=1e-4, atol=1e-5
            )
        assert m.scale == (None if not hasattr(mixer.bridge, "scale") else pytest.approx(mixer.bridge.scale.item()))


def state(model: nn.Module) -> tuple[object, ...]:
    """Return all state of the model that must not change."""
    flags = [module.training for module in model.modules()]
    hooks = [(dict(m._forward_hooks), dict(m._forward_pre_hooks)) for m in model.modules()]
    grads = [(p.requires_grad, p.grad is None) for p in model.parameters()]
    return flags, hooks, grads, torch.is_grad_enabled()


def test_slot_maps_do_not_modify_the_model():
    model = make().train()
    model.norm.eval()  # like a frozen normalisation layer
    model.stages[1].requires_grad_(False)
    model.set_grad_checkpointing()
    kept = model.stages[0].register_forward_hook(lambda *_: None)
    weights = copy.deepcopy(model.state_dict())
    before = state(model)
    maps = slot_maps(model, torch.randn(4, 3, 64, 64))
    assert state(model) == before
    assert all(torch.equal(weights[name], tensor) for name, tensor in model.state_dict().items())
    assert not any(m.assignment.requires_grad for m in maps)
    with pytest.raises(ValueError, match="takes images with 3 channels"):
        slot_maps(model, torch.randn(1, 4, 64, 64))
    assert state(model) == before
    kept.remove()


def test_slot_maps_use_evaluation_mode():
    model = make(drop_path_rate=0.9).train()
    x = torch.randn(2, 3, 64, 64)
    same(slot_maps(model, x), slot_maps(copy.deepcopy(model).eval(), x))


def test_block_indices_are_resolved_and_invalid_ones_raise():
    model, x = make(), torch.randn(1, 3, 64, 64)
    every = slot_maps(model, x)
    same(slot_maps(model, x, [2, 0]), [every[0], every[2]])
    same(slot_maps(model, x, [-1]), every[2:])
    assert chosen_blocks(model, [-1, 0, 0]) == [0, 2]
    assert chosen_blocks(model) == last_blocks(model) == [0, 1, 2]
    assert last_blocks(timm.create_model("glnet_4g", device="meta")) == [3, 7, 16]
    for wrong, words in (([3], "got 3"), ([0, -4, 7], "got -4, 7"), ([], "got none")):
        with pytest.raises(ValueError, match=r"3 blocks with slots, numbered 0 to 2 \(stages.0.blocks.0 to") as raised:
            slot_maps(model, x, wrong)
        assert words in str(raised.value)


def test_models_without_slots_raise():
    x = torch.randn(1, 3, 64, 64)
    for model in (make(slots=False), make(mixers=("attn",) * 4), timm.create_model("test_resnet")):
        with pytest.raises(ValueError, match=f"{type(model).__name__} has no block with slots"):
            slot_maps(model, x)
    pyramid = timm.create_model("test_glnet", features_only=True, feature_cls="fx")
    assert isinstance(pyramid, FeatureGraphNet)
    for graph in (torch.jit.script(make()), torch.fx.symbolic_trace(make()), pyramid):
        with pytest.raises(ValueError, match="give the model that it was made from"):
            slot_maps(graph, x)


class Backwards(nn.Module):
    """Model that registers its parts in another order than it runs them."""

    def __init__(self) -> None:
        super().__init__()
        self.late, self.early = make(), make()

    def forward(self, x):
        return self.early(x) + self.late(x)


def test_maps_are_in_execution_order():
    maps = slot_maps(Backwards(), torch.randn(1, 3, 64, 64), [0, 5])
    assert [(m.index, m.name) for m in maps] == [(0, "early.stages.0.blocks.0"), (5, "late.stages.2.blocks.0")]


@pytest.mark.parametrize("feature_class", ["list", "dict", "hook", "getter"])
def test_slot_maps_of_feature_extractors(feature_class):
    torch.manual_seed(0)
    pyramid = timm.create_model("test_glnet", features_only=True, feature_cls=feature_class).eval()
    torch.manual_seed(0)
    whole = timm.create_model("test_glnet").eval()
    x = torch.randn(1, 3, 64, 64)
    same(slot_maps(pyramid, x), slot_maps(whole, x))


def test_slot_maps_of_backbones():
    x = torch.randn(1, 3, 64, 64)
    whole = make()
    same(slot_maps(Pyramid(copy.deepcopy(whole)), x), slot_maps(whole, x))
    smp = pytest.importorskip("segmentation_models_pytorch")
    unet = smp.Unet("tu-test_glnet", encoder_weights=None, encoder_depth=5)
    assert [m.index for m in slot_maps(unet, x)] == [0, 1, 2]


@pytest.mark.parametrize("in_place", [False, True])
def test_slot_maps_of_compiled_models(in_place):
    x = torch.randn(1, 3, 64, 64)
    model = make()
    expected = slot_maps(model, x)
    torch._dynamo.reset()
    compiled = model if in_place else torch.compile(model, backend="eager")
    if in_place:
        model.compile(backend="eager")
    with torch.no_grad():
        logits = compiled(x)
    torch._dynamo.utils.counters.clear()
    before = state(compiled)
    maps = slot_maps(compiled, x)
    same(maps, expected)
    assert [m.name for m in maps] == NAMES
    assert state(compiled) == before
    with torch.no_grad():
        torch.testing.assert_close(compiled(x), logits)
    assert "stats" not in torch._dynamo.utils.counters  # nothing was recompiled
    compiled.train()
    slot_maps(compiled, x)
    assert compiled.training
    assert model.training


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_maps_have_the_models_dtype(dtype):
    model, x = make(), torch.randn(1, 3, 64, 64)
    expected = slot_maps(model, x)
    maps = slot_maps(model.to(dtype), x.to(dtype))
    for m, e in zip(maps, expected, strict=True):
        assert {t.dtype for t in (m.clustering, m.assignment, m.slots, m.mixed, m.attention)} == {dtype}
        torch.testing.assert_close(m.assignment.float(), e.assignment, rtol=0, atol=0.06)
        assert m.attention.isfinite().all()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_maps_stay_on_the_models_device():
    model, x = make(), torch.randn(1, 3, 64, 64)
    expected = slot_maps(model, x)
    maps = slot_maps(model.cuda(), x.cuda())
    assert all(m.assignment.is_cuda for m in maps)
    for m, e in zip(maps, expected, strict=True):
        torch.testing.assert_close(m.assignment.cpu(), e.assignment, rtol=1e-2, atol=1e-3)


def test_recording_appends_every_pass_with_gradient():
    model, x = make(), torch.randn(2, 3, 64, 64)
    with recording(model, [0, -1]) as maps:
        model(x)
        model.forward_intermediates(x, indices=[0], stop_early=True)  # partial forward pass
        model(x)
    assert [m.index for m in maps] == [0, 2, 0, 0, 2]
    maps[1].assignment.square().sum().backward()
    assert model.stages[2].blocks[0].mixer.bridge.scale.grad is not None
    model(x)
    assert len(maps) == 5


def test_padding_does_not_change_the_maps():
    """Compare an image in a padded batch with the image alone."""
    model, x = make(), torch.randn(1, 3, 64, 64)
    padded, mask = torch.zeros(1, 3, 64, 96), torch.zeros(1, 64, 96, dtype=torch.bool)
    padded[..., :64], mask[..., :64] = x, True
    with torch.no_grad(), recording(model) as maps:
        model.forward_features(padded, mask)
    for m, alone in zip(maps, slot_maps(model, x), strict=True):
        inside = m.assignment.unflatten(2, m.grid)[..., : alone.grid[1]].flatten(2)
        torch.testing.assert_close(inside, alone.assignment, rtol=1e-4, atol=1e-5)


def test_maps_of_all_blocks_cost_little_more_than_a_forward_pass():
    """Count the work, and allow a factor of two in time; studies/timing/slot_maps.py measures the time exactly."""
    model, x = timm.create_model("glnet_4g").eval(), torch.randn(1, 3, 224, 224)
    counts = []
    for call in (model, lambda x: slot_maps(model, x)):
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            call(x)
        counts.append(counter.get_total_flops())
    assert counts[1] < 1.05 * counts[0]

    ratios = []
    for _ in range(3):
        start = time.process_time()
        with torch.no_grad():
            model(x)
        between = time.process_time()
        slot_maps(model, x)
        ratios.append((time.process_time() - between) / (between - start))
    assert statistics.median(ratios) < 2
