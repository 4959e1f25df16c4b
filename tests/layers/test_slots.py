"""Properties of clustering and dispatching for any height, width and number of slots."""

import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F

from glmix.layers.slots import (
    cluster,
    cosine_logits,
    dispatch,
    fit_grid,
    hard_assignment,
    hard_pair,
    kmeans_centres,
    pixels_of,
    pool_to_grid,
    pooling_matrix,
    regular_pair,
    soft_pair,
)

SIZE = st.integers(1, 23)
GRID = st.integers(1, 9)
SCALE = st.floats(0.01, 50.0)


def case(height: int, width: int, rows: int, cols: int, channels: int = 6):
    """Return a float64 image, its pixels and its pooled seeds."""
    generator = torch.Generator().manual_seed(height * 1000 + width * 100 + rows * 10 + cols)
    x = torch.randn(2, channels, height, width, generator=generator, dtype=torch.float64)
    return x, pixels_of(x), pool_to_grid(x, rows, cols)


def soft(seeds, pixels, scale):
    return soft_pair(cosine_logits(seeds, pixels, torch.tensor([scale], dtype=pixels.dtype)), pixels.dtype)


def pair_of(kind, x, pixels, seeds, rows, cols):
    if kind == "soft":
        return soft(seeds, pixels, 5.0)
    if kind == "static":
        return regular_pair(x, rows, cols)
    one = torch.ones(1, dtype=pixels.dtype)
    return hard_pair(hard_assignment(cosine_logits(kmeans_centres(seeds, pixels, 2), pixels, one), pixels.dtype))


@pytest.mark.parametrize("kind", ["soft", "kmeans", "static"])
@given(height=SIZE, width=SIZE, rows=GRID, cols=GRID)
def test_assignments_sum_to_one_over_slots_and_clusterings_over_pixels(kind, height, width, rows, cols):
    x, pixels, seeds = case(height, width, rows, cols)
    clustering, assignment = pair_of(kind, x, pixels, seeds, rows, cols)
    assert clustering.shape == assignment.shape == (2, rows * cols, height * width)
    torch.testing.assert_close(assignment.sum(1), torch.ones(2, height * width, dtype=x.dtype))
    taken = clustering.sum(2)
    if kind == "kmeans":  # a slot that no pixel chose takes none
        taken = taken[assignment.sum(2) > 0]
    torch.testing.assert_close(taken, torch.ones_like(taken))
    assert (clustering >= 0).all()
    assert (assignment >= 0).all()


@given(height=SIZE, width=SIZE, rows=GRID, cols=GRID, scale=SCALE)
def test_clustering_ignores_the_order_of_pixels_and_dispatch_follows_it(height, width, rows, cols, scale):
    _, pixels, seeds = case(height, width, rows, cols)
    order = torch.randperm(height * width)
    clustering, assignment = soft(seeds, pixels, scale)
    permuted_clustering, permuted_assignment = soft(seeds, pixels[:, order], scale)
    slots = cluster(clustering, pixels)
    torch.testing.assert_close(cluster(permuted_clustering, pixels[:, order]), slots)
    torch.testing.assert_close(dispatch(permuted_assignment, slots), dispatch(assignment, slots)[:, order])


@given(height=SIZE, width=SIZE, rows=GRID, cols=GRID)
def test_a_uniform_assignment_dispatches_the_mean_of_the_slots(height, width, rows, cols):
    _, pixels, seeds = case(height, width, rows, cols)
    clustering, assignment = soft(seeds, pixels, 0.0)
    slots = torch.randn(2, rows * cols, 6, dtype=pixels.dtype)
    mean = slots.mean(1, keepdim=True).expand(-1, height * width, -1)
    torch.testing.assert_close(dispatch(assignment, slots), mean)
    torch.testing.assert_close(cluster(clustering, pixels), pixels.mean(1, keepdim=True).expand(-1, rows * cols, -1))


@given(height=SIZE, width=SIZE, rows=GRID, cols=GRID, scale=SCALE)
def test_both_directions_are_attention_with_normalised_queries_and_keys(height, width, rows, cols, scale):
    _, pixels, seeds = case(height, width, rows, cols)
    queries, keys = scale * F.normalize(seeds, dim=-1), F.normalize(pixels, dim=-1)
    slots = F.scaled_dot_product_attention(queries, keys, pixels, scale=1.0)
    back = F.scaled_dot_product_attention(keys, queries, slots, scale=1.0)
    clustering, assignment = soft(seeds, pixels, scale)
    torch.testing.assert_close(cluster(clustering, pixels), slots)
    torch.testing.assert_close(dispatch(assignment, slots), back)


@given(size=st.integers(1, 40), bins=st.integers(1, 12))
def test_pooling_matrix_matches_adaptive_pooling_windows(size, bins):
    x = torch.randn(3, 1, size, dtype=torch.float64)
    torch.testing.assert_close(x @ pooling_matrix(size, bins, x).t(), F.adaptive_avg_pool1d(x, bins))


@given(height=SIZE, width=SIZE, rows=GRID, cols=GRID)
def test_pooling_by_matrices_is_adaptive_pooling(height, width, rows, cols):
    x, _, seeds = case(height, width, rows, cols)
    down, across = pooling_matrix(height, rows, x), pooling_matrix(width, cols, x)
    torch.testing.assert_close((down @ (x @ across.t())).flatten(2).transpose(1, 2), seeds)


@given(height=st.integers(8, 23), width=st.integers(8, 23), rows=st.integers(1, 8), cols=st.integers(1, 8))
def test_static_clustering_is_adaptive_pooling(height, width, rows, cols):
    x, pixels, seeds = case(height, width, rows, cols)
    torch.testing.assert_close(cluster(regular_pair(x, rows, cols)[0], pixels), seeds)


@given(height=SIZE, width=SIZE, rows=GRID, cols=GRID)
def test_lloyd_iterations_never_lower_the_similarity_of_pixels_to_their_centres(height, width, rows, cols):
    # with unit pixels, means are the best directions for the pixels that chose them
    x, _, _ = case(height, width, rows, cols)
    pixels = F.normalize(pixels_of(x), dim=-1)
    seeds = pool_to_grid(F.normalize(x, dim=1), rows, cols)
    one = torch.ones(1, dtype=x.dtype)
    similarity = [cosine_logits(kmeans_centres(seeds, pixels, n), pixels, one).amax(1).sum().item() for n in range(4)]
    assert all(after >= before - 1e-9 for before, after in itertools.pairwise(similarity))


def test_gradients_of_hard_clusters_flow_only_through_the_means():
    x, pixels, seeds = case(5, 6, 2, 2)
    pixels = pixels.clone().requires_grad_()
    clustering, _ = pair_of("kmeans", x, pixels.detach(), seeds, 2, 2)
    assert torch.autograd.gradcheck(lambda p: cluster(clustering, p), (pixels,))


def test_gradients_of_the_soft_bridge_are_those_of_its_formula():
    _, pixels, seeds = case(4, 3, 2, 2)
    inputs = (seeds.clone().requires_grad_(), pixels.clone().requires_grad_(), torch.tensor([3.0]).double())
    inputs[2].requires_grad_()

    def there_and_back(seeds, pixels, scale):
        clustering, assignment = soft_pair(cosine_logits(seeds, pixels, scale), pixels.dtype)
        return dispatch(assignment, cluster(clustering, pixels))

    assert torch.autograd.gradcheck(there_and_back, inputs)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_zero_pixels_and_zero_seeds_give_no_nan(dtype):
    zeros = torch.zeros(1, 5, 4, dtype=dtype)
    logits = cosine_logits(zeros[:, :2], zeros, torch.ones(1, dtype=dtype))
    assert (logits == 0).all()


def test_logits_of_half_precision_inputs_are_float32():
    pixels = torch.randn(1, 30, 8)
    wide = cosine_logits(pixels[:, :4], pixels, torch.ones(1))
    narrow = cosine_logits(pixels[:, :4].bfloat16(), pixels.bfloat16(), torch.ones(1).bfloat16())
    assert narrow.dtype == torch.float32
    torch.testing.assert_close(narrow, wide, atol=2e-2, rtol=0)


@given(num_slots=st.integers(4, 256), height=st.integers(8, 512), width=st.integers(8, 512))
def test_fit_grid_keeps_the_number_of_slots_and_the_aspect_ratio(num_slots, height, width):
    rows, cols = fit_grid(num_slots, height, width)
    assert rows >= 1
    assert cols >= 1
    if 1 / 3 <= height / width <= 3 and num_slots >= 16:
        assert abs(rows * cols - num_slots) <= num_slots / 4
        assert 0.5 <= (rows / cols) / (height / width) <= 2
