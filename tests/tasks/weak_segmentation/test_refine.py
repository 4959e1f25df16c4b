"""Refinement of class maps by slots and by PAMR."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from glmix.slots.cut import slot_kernel
from glmix.tasks.weak_segmentation.refine import pamr, refine, resize_maps
from tests.slots.test_cut import block, random_blocks


@settings(max_examples=20, deadline=None)
@given(st.floats(0, 1), st.integers(0, 10**6))
def test_refine_preserves_mean_and_range_per_class(share: float, seed: int) -> None:
    blocks = random_blocks(seed, (5, 4, 6), (7, 4, 6))
    classes = torch.rand(2, 3, 4, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    refined = refine(classes, blocks, share=share)
    torch.testing.assert_close(refined.mean((2, 3)), classes.mean((2, 3)))
    assert (refined.amax((2, 3)) <= classes.amax((2, 3)) + 1e-9).all()
    assert (refined.amin((2, 3)) >= classes.amin((2, 3)) - 1e-9).all()


def test_refine_applies_blocks_from_deep_to_shallow() -> None:
    shallow, deep = random_blocks(0, (5, 6, 8), (4, 3, 4))
    classes = torch.rand(2, 3, 3, 4, dtype=torch.float64)
    first = 0.7 * classes + 0.3 * slot_kernel([deep]).smooth(classes)
    large = resize_maps(first, (6, 8))
    by_hand = 0.7 * large + 0.3 * slot_kernel([shallow]).smooth(large)
    torch.testing.assert_close(refine(classes, [shallow, deep], share=0.3), by_hand)


def test_refine_spreads_scores_within_a_slot_only() -> None:
    logits = torch.zeros(1, 2, 4, 4)
    logits[:, 0, :, :2], logits[:, 1, :, 2:] = 30.0, 30.0
    classes = torch.zeros(1, 1, 4, 4)
    classes[0, 0, 1, 0] = 1.0
    refined = refine(classes, [block(logits)], share=0.5, effective=None)
    torch.testing.assert_close(refined[0, 0, 1, 0], torch.tensor(0.5 + 0.5 / 8))
    torch.testing.assert_close(refined[0, 0, 3, 1], torch.tensor(0.5 / 8))
    assert refined[0, 0, :, 2:].abs().max() < 1e-6


@pytest.mark.parametrize("share", [-0.1, 1.1])
def test_share_outside_0_to_1_raises(share: float) -> None:
    with pytest.raises(ValueError, match="share must lie"):
        refine(torch.rand(1, 1, 2, 2), [], share=share)


def two_halves() -> torch.Tensor:
    """Return an image (1, 3, 16, 24), black on the left and white from column 12 on."""
    images = torch.zeros(1, 3, 16, 24)
    images[..., 12:] = 1
    return images


def test_pamr_stops_at_colour_edges() -> None:
    masks = torch.zeros(1, 2, 16, 24)
    masks[:, 0, 4:12, 2:10], masks[:, 1, 4:12, 14:22] = 1, 1
    refined = pamr(masks, two_halves(), steps=20)
    assert (refined[0, 0, 8, :11] > 10 * refined[0, 0, 8, 13:].max()).all()
    assert refined[0, 0, 8, 11] > 0.3
    assert refined[0, 1, 8, 12] > 0.3


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 9), st.integers(1, 9), st.integers(1, 12), st.integers(0, 10**6))
def test_pamr_averages_neighbours(h: int, w: int, steps: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    images = torch.randn(2, 3, h, w, generator=generator)
    constant = torch.full((2, 1, h, w), 0.3)
    torch.testing.assert_close(pamr(constant, images, steps=steps), constant)
    masks = torch.rand(2, 2, h, w, generator=generator)
    refined = pamr(masks, images, steps=steps, dilations=(1, 4))
    assert (refined <= masks.amax((2, 3), keepdim=True) + 1e-5).all()
    assert (refined >= masks.amin((2, 3), keepdim=True) - 1e-5).all()


def test_pamr_is_invariant_to_colour_scale() -> None:
    images, masks = torch.rand(1, 3, 12, 12), torch.rand(1, 2, 6, 6)
    torch.testing.assert_close(pamr(masks, images), pamr(masks, 50 * images - 7), atol=1e-3, rtol=1e-3)


def test_pamr_returns_masks_at_image_size() -> None:
    assert pamr(torch.rand(2, 3, 5, 7), torch.rand(2, 3, 20, 31)).shape == (2, 3, 20, 31)


def test_pamr_blurs_uniformly_in_a_constant_image() -> None:
    refined = pamr(torch.rand(1, 1, 8, 8), torch.ones(1, 3, 8, 8))
    assert refined.isfinite().all()


@pytest.mark.parametrize("dilations", [(), (0, 1)])
def test_invalid_dilations_raise(dilations: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="dilations"):
        pamr(torch.rand(1, 1, 8, 8), torch.ones(1, 3, 8, 8), dilations=dilations)
