"""Constructor arguments for the design choices of the paper, and errors for invalid combinations."""

import pytest
import timm
import torch

import glmix
from glmix.layers import GLMix, GridAttention, SoftBridge


def make(**kwargs):
    return timm.create_model("test_glnet", **kwargs)


CHOICES = [
    {"local": False},
    {"slots": False},
    {"local": (True, False, True, True), "slots": (True, True, False, True)},
    {"local_kernel": 3},
    {"local_kernel": (7, 5, 3, 3)},
    {"slot_attention": False},
    {"clustering": "kmeans"},
    {"clustering": "kmeans", "kmeans_iterations": 0},
    {"clustering": "static"},
    {"clustering": ("static", "soft", "kmeans", "soft")},
    {"seeds": "learned"},
    {"num_slots": 6},
    {"num_slots": (64, 16, 4, 4)},
    {"slot_grid": (8, 12)},
    {"slot_grid": 5},
    {"slot_grid": [2, 3]},
    {"slot_grid": [(8, 8), 4, 4, 2]},
    {"slot_aspect": True},
    {"slot_scale": (None,) * 4},
    {"pos_conv": False},
    {"mlp_conv": (True, True, False, False)},
    {"mlp_ratio": (4, 4, 2, 2)},
    {"layer_scale": 1e-5},
    {"layer_scale": (None, None, 1e-5, 1e-5)},
    {"stem": "patch"},
    {"transition_order": "norm_conv", "transition_kernel": 2},
    {"mixers": ("attn", "glmix", "glmix", "glmix")},
    {"mixers": ("glmix", ("attn", "glmix"), "attn", "attn")},
    {"widths": (32, 48, 64), "depths": (1, 1, 1), "mixers": ("glmix", "glmix", "attn")},
    {"head_dim": (8, 16, 32, 32)},
    {"drop_rate": 0.5, "drop_path_rate": 0.2},
]


@pytest.mark.parametrize("options", CHOICES, ids=str)
def test_every_choice_runs_trains_and_reaches_its_parameters(options):
    model = make(num_classes=4, **options).train()
    logits = model(torch.randn(3, 3, 64, 96))
    assert logits.shape == (3, 4)
    torch.manual_seed(1)
    logits.square().sum().backward()
    if "drop_path_rate" not in options:
        assert not [n for n, p in model.named_parameters() if p.grad is None]
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"local": False, "slots": False}, "a local branch, a slot branch, or both; got neither"),
        ({"seeds": "learned", "clustering": "kmeans"}, "Learned seeds need clustering='soft', got 'kmeans'"),
        ({"seeds": "learned", "clustering": "static"}, "Learned seeds need clustering='soft', got 'static'"),
        ({"seeds": "learned", "slot_aspect": True}, "cannot follow the aspect ratio"),
        ({"seeds": "random"}, "seeds must be 'pooled' or 'learned', got 'random'"),
        ({"clustering": "hard"}, "clustering must be 'soft', 'kmeans' or 'static', got 'hard'"),
        ({"mixers": ("conv", "glmix", "glmix", "attn")}, "must be 'glmix' or 'attn', got 'conv' in stage 0"),
        ({"mixers": ("glmix", "attn")}, "mixers must be one value or 4 values"),
        ({"depths": (1, 1)}, "depths must be one value or 4 values"),
        ({"local_kernel": 4}, "local_kernel must be an odd number, got 4"),
        ({"num_slots": 0}, "num_slots must be at least 1, got 0"),
        ({"slot_grid": (0, 4)}, "at least one row and one column, got 0 rows and 4 columns"),
        ({"slot_grid": (1, 2, 3)}, "slot_grid must be one value or 4 values"),
        ({"head_dim": 24}, "width of 32 channels is not divisible by head_dim=24"),
        ({"kmeans_iterations": -1, "clustering": "kmeans"}, "kmeans_iterations must be 0 or more, got -1"),
    ],
    ids=str,
)
def test_invalid_options_raise_an_error(options, words):
    with pytest.raises(ValueError, match=words):
        make(**options)


def test_mixers_alternate_within_a_stage():
    model = timm.create_model("glnet_4g", device="meta")
    kinds = [[type(block.mixer) for block in stage.blocks] for stage in model.stages]
    assert kinds == [[GLMix] * 4, [GLMix] * 4, [GLMix, GridAttention] * 9, [GridAttention] * 4]


def bridges(model):
    return [module for module in model.modules() if isinstance(module, SoftBridge)]


def slot_counts(model, x):
    counts = []
    hooks = [b.register_forward_hook(lambda m, i, out: counts.append(out[1].shape[1])) for b in bridges(model)]
    with torch.no_grad():
        model(x)
    for hook in hooks:
        hook.remove()
    return counts


def test_a_number_of_slots_is_laid_out_most_nearly_square():
    assert {(b.rows, b.cols) for b in bridges(make(num_slots=96))} == {(8, 12)}
    assert {(b.rows, b.cols) for b in bridges(make(num_slots=7))} == {(1, 7)}


def test_the_slot_grid_of_a_trained_model_can_be_changed():
    model = make().eval()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    x = torch.randn(1, 3, 64, 96)
    assert slot_counts(model, x) == [16, 16, 16]
    model.set_slot_grid(12)
    assert slot_counts(model, x) == [144] * 3
    model.set_slot_grid((8, 12))
    assert slot_counts(model, x) == [96] * 3
    model.set_slot_grid(num_slots=4)
    assert slot_counts(model, x) == [4] * 3
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


def test_a_grid_can_follow_the_aspect_ratio_of_the_image():
    model = make().eval()
    model.set_slot_grid(num_slots=64, follow_aspect=True)
    assert slot_counts(model, torch.randn(1, 3, 64, 64)) == [64] * 3  # 8 x 8
    assert slot_counts(model, torch.randn(1, 3, 64, 256)) == [64] * 3  # 4 x 16
    wide, tall = torch.randn(1, 3, 64, 128), torch.randn(1, 3, 128, 64)
    assert slot_counts(model, wide) == slot_counts(model, tall) == [66] * 3  # 6 x 11, 11 x 6


def test_the_slots_of_a_wrapped_model_can_be_changed_too():
    pyramid = make(features_only=True).eval()
    glmix.set_slot_grid(pyramid, 5)
    assert slot_counts(pyramid, torch.randn(1, 3, 64, 64)) == [25] * 3


@pytest.mark.parametrize(
    ("options", "arguments", "words"),
    [
        ({"seeds": "learned"}, {"grid": 5}, "16 learned seeds, .* cannot be changed to 5 rows and 5 columns"),
        ({"slots": False}, {"grid": 5}, "has no block with slots"),
        ({}, {}, "Give either grid or num_slots"),
        ({}, {"grid": 4, "num_slots": 16}, "Give either grid or num_slots"),
        ({}, {"grid": (4, 4, 4)}, r"one number or \(rows, columns\)"),
    ],
)
def test_invalid_changes_of_the_slot_grid_raise_an_error(options, arguments, words):
    with pytest.raises(ValueError, match=words):
        make(**options).set_slot_grid(**arguments)


def test_the_initial_slot_scale_of_each_model():
    assert {b.scale.item() for b in bridges(timm.create_model("glnet_nano"))} == {8.0}
    assert bridges(make(slot_scale=(None,) * 4))[0].scale.item() == pytest.approx(32**-0.5)
    assert [b.scale.item() for b in bridges(make(slot_scale=(1.0, 2.0, 3.0, 4.0)))] == [1.0, 2.0, 3.0]


def test_only_soft_clustering_has_a_scale():
    assert not [n for n, _ in make(clustering="kmeans").named_parameters() if "scale" in n]
    assert not [n for n, _ in make(clustering="static").named_parameters() if "scale" in n]
