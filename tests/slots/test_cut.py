"""SlotCut: agreement with a dense normalised cut without the N x N kernel, and degenerate inputs."""

from dataclasses import replace

import pytest
import timm
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import glmix
from glmix.slots.cut import SlotKernel, orient_cut, slot_cut, slot_kernel, soft_sign, tempered_softmax
from glmix.slots.maps import BlockMaps, slot_maps
from glmix.slots.measures import effective_slots_per_pixel


def block(logits: torch.Tensor, index: int = 0) -> BlockMaps:
    """Return maps with these logits (B, S, h, w); fields that the cut does not use are empty."""
    assignment = logits.flatten(2).softmax(1)
    nothing = torch.zeros(len(logits), logits.shape[1], 1)
    return BlockMaps(
        name="block",
        index=index,
        grid=(logits.shape[2], logits.shape[3]),
        slot_grid=(1, logits.shape[1]),
        scale=1.0,
        clustering=logits.flatten(2).softmax(2),
        assignment=assignment,
        slots=nothing,
        mixed=nothing,
        attention=None,
    )


def dense(kernel: SlotKernel) -> torch.Tensor:
    """Return the dense kernel W (B, N, N) from its definition."""
    p = kernel.assignment.transpose(1, 2)
    return p @ torch.diag_embed(1 / kernel.sizes) @ p.transpose(1, 2)


def random_blocks(seed: int, *shapes: tuple[int, int, int], batch: int = 2) -> list[BlockMaps]:
    generator = torch.Generator().manual_seed(seed)
    return [
        block(3 * torch.randn(batch, *shape, generator=generator, dtype=torch.float64), index)
        for index, shape in enumerate(shapes)
    ]


slots, sides, seeds = st.integers(2, 7), st.integers(2, 5), st.integers(0, 10**6)


@settings(max_examples=25, deadline=None)
@given(slots, sides, sides, seeds)
def test_kernel_is_symmetric_positive_and_doubly_stochastic(s: int, h: int, w: int, seed: int) -> None:
    weights = dense(slot_kernel(random_blocks(seed, (s, h, w), (3, 2, 2))))
    torch.testing.assert_close(weights, weights.transpose(1, 2))
    torch.testing.assert_close(weights.sum(2), torch.ones_like(weights.sum(2)), atol=1e-5, rtol=0)
    assert (torch.linalg.eigvalsh(weights) > -1e-5).all()


@settings(max_examples=25, deadline=None)
@given(slots, sides, sides, seeds)
def test_smooth_multiplies_by_the_kernel(s: int, h: int, w: int, seed: int) -> None:
    kernel = slot_kernel(random_blocks(seed, (s, h, w)))
    maps = torch.randn(2, 3, h, w, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    by_hand = (maps.flatten(2) @ dense(kernel)).unflatten(2, (h, w))
    torch.testing.assert_close(kernel.smooth(maps), by_hand, atol=1e-5, rtol=1e-5)


@settings(max_examples=25, deadline=None)
@given(slots, sides, sides, seeds)
def test_cut_is_second_eigenvector_of_the_dense_kernel(s: int, h: int, w: int, seed: int) -> None:
    kernel = slot_kernel(random_blocks(seed, (s, h, w), (4, 3, 2)))
    values, vectors = torch.linalg.eigh(dense(kernel).double())
    found, cuts = kernel.cuts()
    torch.testing.assert_close(found[:, 0].double(), values[:, -2], atol=1e-5, rtol=0)
    for b in range(2):
        gap = min(values[b, -1] - values[b, -2], values[b, -2] - (values[b, -3] if h * w > 2 else 0))
        if gap > 1e-3:
            cosine = (cuts[b, 0].flatten().double() * vectors[b, :, -2]).sum().abs()
            assert cosine > 1 - 1e-4


def test_cut_minimises_the_normalised_cut_of_two_parts() -> None:
    logits = torch.zeros(1, 6, 4, 8)
    logits[:, :3, :, :3], logits[:, 3:, :, 3:] = 4.0, 4.0
    cut = slot_cut(slot_kernel([block(logits)], effective=None), torch.ones(1, 4, 8).cumsum(2))
    assert (cut[:, :, :3] < 0.2).all()
    assert (cut[:, :, 3:] > 0.8).all()


def test_kernel_of_several_blocks_is_their_mean() -> None:
    first, second = random_blocks(0, (5, 4, 3), (7, 4, 3))
    both = dense(slot_kernel([first, second]))
    torch.testing.assert_close(both, (dense(slot_kernel([first])) + dense(slot_kernel([second]))) / 2)


def test_kernel_matrix_is_never_built() -> None:
    kernel = slot_kernel([block(torch.randn(1, 16, 400, 500))], effective=None)  # W would take 160 GB
    assert slot_cut(kernel).shape == (1, 400, 500)


def test_images_of_a_batch_are_independent() -> None:
    blocks = random_blocks(3, (5, 4, 6), (6, 2, 3), batch=3)
    alone = [replace(b, assignment=b.assignment[1:2]) for b in blocks]
    torch.testing.assert_close(slot_cut(slot_kernel(blocks))[1:2], slot_cut(slot_kernel(alone)), atol=1e-4, rtol=0)


@settings(max_examples=25, deadline=None)
@given(st.integers(5, 20), st.floats(1.2, 4.5), seeds)
def test_temperature_reaches_the_target(s: int, target: float, seed: int) -> None:
    logits = torch.randn(2, s, 6, generator=torch.Generator().manual_seed(seed))
    found = effective_slots_per_pixel(tempered_softmax(logits, target)).mean(1)
    torch.testing.assert_close(found, torch.full((2,), target), atol=0.01, rtol=0)


@pytest.mark.parametrize("target", [0.5, float("nan")])
def test_fewer_than_one_effective_slot_raises(target: float) -> None:
    with pytest.raises(ValueError, match="at least 1"):
        tempered_softmax(torch.randn(1, 4, 4), target)


@pytest.mark.parametrize(
    "logits",
    [
        pytest.param(torch.zeros(1, 16, 6, 4), id="uniform assignments"),
        pytest.param(torch.randn(1, 1, 6, 4), id="one slot"),
        pytest.param(torch.randn(1, 16, 1, 1), id="one pixel"),
        pytest.param(torch.randn(1, 16, 1, 1).expand(-1, -1, 6, 4), id="all pixels alike"),
    ],
)
def test_cut_of_uniform_assignments_is_neutral(logits: torch.Tensor) -> None:
    cut = slot_cut(slot_kernel([block(logits)]))
    torch.testing.assert_close(cut, torch.full_like(cut, 0.5))


def test_more_cuts_than_slots_are_zeros() -> None:
    values, cuts = slot_kernel(random_blocks(0, (3, 4, 4))).cuts(5)
    assert values.shape == (2, 5)
    assert cuts.shape == (2, 5, 4, 4)
    assert (cuts[:, 2:].abs().amax((2, 3)) == 0).all()
    assert (cuts[:, :2].abs().amax((2, 3)) > 0).all()


def test_hard_assignments_with_empty_slots_are_cut() -> None:
    hard = torch.zeros(1, 4, 4, 4)
    hard[:, 0, :, :2], hard[:, 1, :, 2:] = 1, 1
    maps = replace(block(hard), assignment=hard.flatten(2))
    cut = slot_cut(slot_kernel([maps], effective=None), hard[:, 1])
    assert (cut[..., :2] < 0.2).all()
    assert (cut[..., 2:] > 0.8).all()


def test_sign_follows_the_evidence_at_any_resolution() -> None:
    cut = torch.randn(3, 6, 8)
    evidence = torch.rand(3, 3, 4)
    assert torch.equal(orient_cut(cut, evidence), orient_cut(-cut, evidence))
    assert torch.equal(orient_cut(cut, -evidence), -orient_cut(cut, evidence))


def test_without_evidence_the_border_is_background() -> None:
    cut = torch.zeros(1, 6, 8)
    cut[:, 2:4, 3:6] = -1
    found = orient_cut(cut - cut.mean())
    assert (found[:, 2:4, 3:6] > 0).all()
    assert (found[:, 0] < 0).all()


def test_soft_sign_is_scaled_by_the_standard_deviation() -> None:
    cut = torch.randn(2, 5, 7)
    torch.testing.assert_close(soft_sign(cut), soft_sign(1000 * cut))
    torch.testing.assert_close(soft_sign(cut)[0], torch.sigmoid(2 * cut[0] / cut[0].std(correction=0)))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("size", [(64, 64), (64, 96), (96, 33)])
def test_cut_works_at_any_size_and_dtype(dtype: torch.dtype, size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    model = timm.create_model("test_glnet", num_classes=3).eval().to(dtype)
    assert isinstance(model, glmix.GLNet)
    maps = slot_maps(model, torch.randn(2, 3, *size, dtype=dtype))
    cut = slot_cut(slot_kernel(maps))
    assert cut.shape == (2, *maps[0].grid)
    assert cut.isfinite().all()
    assert slot_cut(slot_kernel(maps, (5, 9))).shape == (2, 5, 9)


def test_empty_maps_raise() -> None:
    with pytest.raises(ValueError, match="at least one block"):
        slot_kernel([])
