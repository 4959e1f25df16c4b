"""Views, class maps and seeds of all methods."""

import pytest
import timm
import torch

from glmix import GLNet
from glmix.slots.evidence import class_activation
from glmix.slots.maps import slot_maps
from glmix.tasks.weak_segmentation.methods import SeedConfig, class_maps, dense_objectness, seed_maps, seeds_of
from glmix.tasks.weak_segmentation.views import run_views

METHODS = ("cam", "slots", "slotcut", "dense", "gradcam", "layercam")


@pytest.fixture(scope="module")
def model() -> GLNet:
    torch.manual_seed(0)
    return timm.create_model("test_glnet", num_classes=4, output_stride=8, mixers=("glmix",) * 4).eval()


def test_single_view_matches_class_activation_and_slot_maps(model: GLNet) -> None:
    images = torch.randn(2, 3, 64, 48)
    seen = run_views(model, images)
    torch.testing.assert_close(seen.activation, class_activation(model, images))
    for found, wanted in zip(seen.maps, slot_maps(model, images), strict=True):
        torch.testing.assert_close(found.assignment, wanted.assignment)
    assert [view.shape[1] for view in seen.features[0]] == [32, 48, 64, 96]


@pytest.mark.parametrize("views", [2, 8])
def test_views_are_transformed_back_to_the_image(model: GLNet, views: int) -> None:
    images = torch.randn(1, 3, 64, 48)
    seen = run_views(model, images, views)
    assert seen.activation.shape == (1, 4, 8, 6)
    blocks = len(slot_maps(model, images))
    assert len(seen.maps) == views * blocks
    assert {block.grid for block in seen.maps if block.index == 0} == {(16, 12)}
    mirrored = slot_maps(model, images.flip(3))[0]
    torch.testing.assert_close(
        seen.maps[blocks].assignment.unflatten(2, (16, 12)), mirrored.assignment.unflatten(2, (16, 12)).flip(3)
    )
    torch.testing.assert_close(seen.features[1][0], run_views(model, images.flip(3)).features[0][0].flip(3))


def test_eight_views_are_equivariant_to_rotation(model: GLNet) -> None:
    images = torch.randn(1, 3, 64, 48)
    upright = run_views(model, images, 8).activation
    turned = run_views(model, torch.rot90(images, 1, (2, 3)), 8).activation
    torch.testing.assert_close(turned, torch.rot90(upright, 1, (2, 3)), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("polish", [False, True])
@pytest.mark.parametrize("method", METHODS)
def test_seeds_have_image_size_and_only_present_classes(model: GLNet, method: str, polish: bool) -> None:
    images, present = torch.randn(2, 3, 64, 48), torch.tensor([[1, 0, 1, 0], [0, 0, 0, 1]])
    config = SeedConfig(method=method, polish=polish, views=2)  # type: ignore[arg-type]
    seeds = seeds_of(model, images, present, config)
    assert seeds.classes.shape == (2, 4, 64, 48)
    assert (seeds.objectness is None) == (method not in ("slotcut", "dense"))
    masks = seeds.masks(0.5)
    assert set(masks[0].unique().tolist()) <= {0, 1, 3}
    assert set(masks[1].unique().tolist()) <= {0, 4}


def test_images_of_a_batch_are_independent(model: GLNet) -> None:
    images, present = torch.randn(3, 3, 64, 64), torch.eye(4)[:3]
    config = SeedConfig()
    together = seeds_of(model, images, present, config).score
    alone = seeds_of(model, images[1:2], present[1:2], config).score
    torch.testing.assert_close(together[1:2], alone, atol=1e-3, rtol=1e-3)


def test_blocks_can_be_selected_and_unknown_blocks_raise(model: GLNet) -> None:
    seen = run_views(model, torch.randn(1, 3, 64, 64), 2)
    assert [block.index for block in seen.maps_of((0, -1))] == [0, 4, 0, 4]
    with pytest.raises(ValueError, match=r"5 blocks with slots, 0 to 4 .* got 7"):
        seen.maps_of((7,))


def test_dense_objectness_separates_two_kinds_of_features() -> None:
    features = torch.zeros(1, 2, 4, 6)
    features[:, 0, :, :2], features[:, 1, :, 2:] = 1.0, 1.0
    features += 0.05
    cut = dense_objectness([features], features[:, 1], (4, 6))
    assert (cut[..., :2] < 0.2).all()
    assert (cut[..., 2:] > 0.7).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "magic"}, "method must be one of cam, slots, slotcut, dense"),
        ({"views": 3}, "views must be one of 1, 2, 8"),
        ({"share": 2.0}, "share must lie"),
        ({"effective": 0.0}, "effective must be at least 1"),
    ],
)
def test_invalid_seed_config_raises(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SeedConfig(**options)  # type: ignore[arg-type]


def test_border_sign_makes_the_border_background(model: GLNet) -> None:
    images, present = torch.randn(2, 3, 64, 64), torch.eye(4)[:2]
    outputs = run_views(model, images)
    for method in ("slotcut", "dense"):
        config = SeedConfig(method, sign="border")  # type: ignore[arg-type]
        classes = class_maps(outputs, present, config)
        by_border = seed_maps(outputs, classes, config).objectness
        by_class = seed_maps(outputs, classes, SeedConfig(method)).objectness  # type: ignore[arg-type]
        assert by_border is not None
        assert by_class is not None
        cut = by_border.logit()
        assert (cut[:, 1:-1, 1:-1].mean((1, 2)) >= cut.mean((1, 2)) - 1e-4).all()
        same = torch.isclose(by_class, by_border, atol=1e-4).flatten(1).all(1)
        turned = torch.isclose(by_class, 1 - by_border, atol=1e-4).flatten(1).all(1)
        assert (same | turned).all(), "it is the same cut"
