"""Scores against brute-force implementations of their definitions, and properties that hold for any image."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from glmix.slots.grouping import scores

SHAPES = [
    scores.achievable_accuracy,
    scores.purity,
    scores.undersegmentation_error,
    scores.boundary_recall,
    scores.boundary_precision,
    scores.oracle_iou,
    scores.mean_best_overlap,
    scores.foreground_ari,
]


@st.composite
def label_maps(draw, unknown=True):
    """Draw segments and objects of an image with 2 to 5 rows and columns, some with unknown pixels."""
    height, width = draw(st.integers(2, 5)), draw(st.integers(2, 5))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    labels = rng.integers(0, draw(st.integers(1, 5)), (height, width))
    objects = rng.integers(-1 if unknown and draw(st.booleans()) else 0, draw(st.integers(1, 4)), (height, width))
    return labels, objects


def same(a, b):
    return (math.isnan(a) and math.isnan(b)) or a == pytest.approx(b, abs=1e-12)


def sets(labels, truth, first=0):
    """Return segments and regions as sets of known pixels."""
    known = {tuple(place) for place in np.argwhere(truth >= 0)}
    segments = [known & {tuple(p) for p in np.argwhere(labels == k)} for k in np.unique(labels)]
    regions = [{tuple(p) for p in np.argwhere(truth == k)} for k in np.unique(truth) if k >= first]
    return [s for s in segments if s], regions, known


@settings(max_examples=150, deadline=None)
@given(label_maps())
def test_region_scores_match_their_definitions(pair):
    labels, truth = pair
    segments, regions, known = sets(labels, truth)
    if not known:
        assert all(math.isnan(f(labels, truth)) for f in SHAPES[:3])
        return
    best = [max(len(s & r) for r in regions) for s in segments]
    assert same(scores.achievable_accuracy(labels, truth), sum(best) / len(known))
    assert same(scores.purity(labels, truth), np.mean([b / len(s) for b, s in zip(best, segments, strict=True)]))
    leaks = sum(min(len(s & r), len(s - r)) for s in segments for r in regions)
    assert same(scores.undersegmentation_error(labels, truth), leaks / len(known))


@settings(max_examples=100, deadline=None)
@given(label_maps())
def test_object_scores_match_their_definitions(pair):
    labels, objects = pair
    segments, found, _ = sets(labels, objects, first=1)
    if not found:
        assert math.isnan(scores.oracle_iou(labels, objects))
        assert math.isnan(scores.mean_best_overlap(labels, objects))
        return
    singles = [max(len(s & o) / len(s | o) for s in segments) for o in found]
    assert same(scores.mean_best_overlap(labels, objects), np.mean(singles))
    unions = [
        set().union(*chosen) for n in range(1, len(segments) + 1) for chosen in itertools.combinations(segments, n)
    ]
    assert same(
        scores.oracle_iou(labels, objects), np.mean([max(len(u & o) / len(u | o) for u in unions) for o in found])
    )


@settings(max_examples=100, deadline=None)
@given(label_maps())
def test_rand_index_matches_all_pairs_and_scikit_learn(pair):
    from sklearn.metrics import adjusted_rand_score

    labels, objects = pair
    inside = objects > 0
    a, b = labels[inside], objects[inside]
    if len(np.unique(b)) < 2:
        assert math.isnan(scores.foreground_ari(labels, objects))
        return
    assert same(scores.foreground_ari(labels, objects), adjusted_rand_score(b, a))
    pairs = list(itertools.combinations(range(len(a)), 2))
    one = sum(a[i] == a[j] for i, j in pairs)
    two = sum(b[i] == b[j] for i, j in pairs)
    both = sum(a[i] == a[j] and b[i] == b[j] for i, j in pairs)
    expected, best = one * two / len(pairs), (one + two) / 2
    if best != expected:
        assert same(scores.foreground_ari(labels, objects), (both - expected) / (best - expected))


@settings(max_examples=100, deadline=None)
@given(label_maps(unknown=False), st.integers(0, 2))
def test_boundaries_are_matched_within_the_tolerance(pair, tolerance):
    def borders(labels):
        height, width = labels.shape
        return [
            (i, j)
            for i in range(height)
            for j in range(width)
            if any(
                0 <= i + u < height and 0 <= j + v < width and labels[i + u, j + v] != labels[i, j]
                for u, v in ((0, 1), (1, 0), (0, -1), (-1, 0))
            )
        ]

    def share(these, those):
        near = [any(max(abs(i - k), abs(j - m)) <= tolerance for k, m in those) for i, j in these]
        return float(np.mean(near)) if these else float("nan")

    labels, truth = pair
    assert same(scores.boundary_recall(labels, truth, tolerance), share(borders(truth), borders(labels)))
    assert same(scores.boundary_precision(labels, truth, tolerance), share(borders(labels), borders(truth)))


@settings(max_examples=60, deadline=None)
@given(label_maps(), st.randoms(use_true_random=False))
def test_scores_are_invariant_to_numbering(pair, random):
    labels, objects = pair
    names = list(range(10))
    random.shuffle(names)
    other_labels = np.array(names)[labels]
    numbers = list(range(1, 5))
    random.shuffle(numbers)
    other_objects = np.where(objects > 0, np.array([0, *numbers])[objects.clip(0)], objects)
    for score in SHAPES:
        if math.isnan(score(labels, objects)):
            assert math.isnan(score(other_labels, other_objects))
            continue
        if (objects >= 0).all() or "boundary" not in score.__name__:
            assert same(score(labels, objects), score(other_labels, other_objects))


@settings(max_examples=60, deadline=None)
@given(label_maps())
def test_finer_segments_do_not_lower_oracle_scores(pair):
    labels, objects = pair
    finer = 2 * labels + (np.indices(labels.shape).sum(0) % 2)
    for score in (scores.achievable_accuracy, scores.oracle_iou, scores.boundary_recall):
        before, after = score(labels, objects), score(finer, objects)
        assert math.isnan(before) or after >= before - 1e-12


def two_objects(size=24):
    objects = np.zeros((size, size), int)
    objects[4:12, 3:10] = 1
    objects[13:22, 12:20] = 2
    return objects


def test_perfect_segmentation_scores_one():
    objects = two_objects()
    for score in SHAPES:
        assert score(objects, objects) == (0 if score is scores.undersegmentation_error else 1), score.__name__
    assert scores.foreground_iou(objects > 0, objects) == 1
    assert scores.is_localised(objects == 1, objects) == 1


def test_scores_of_a_single_segment():
    objects = two_objects()
    whole = np.zeros_like(objects)
    background = (objects == 0).mean()
    assert scores.achievable_accuracy(whole, objects) == pytest.approx(background)
    assert scores.purity(whole, objects) == pytest.approx(background)
    assert scores.boundary_recall(whole, objects) == 0
    assert math.isnan(scores.boundary_precision(whole, objects))
    assert scores.foreground_ari(whole, objects) == 0
    assert scores.is_localised(whole == 0, objects) == 0


def test_foreground_rand_index_ignores_leaking():
    objects = two_objects()
    spilt = (np.indices(objects.shape)[0] >= 12).astype(int)  # halves of the image
    assert scores.foreground_ari(spilt, objects) == 1
    assert scores.mean_best_overlap(spilt, objects) < 0.4


def test_unknown_pixels_are_ignored():
    objects = two_objects()
    unknown = objects.copy()
    unknown[:, -2:] = -1
    labels = objects.copy()
    labels[:, -2:] = 7  # a segment of unknown pixels only
    for score in SHAPES:
        if "boundary" not in score.__name__:
            assert score(labels, unknown) == (0 if score is scores.undersegmentation_error else 1), score.__name__


def test_unknown_band_around_an_object_gives_a_boundary_in_its_middle():
    truth = np.zeros((12, 12), int)
    truth[:, 6:] = 1
    truth[:, 4:8] = -1
    assert (scores.fill_unknown(truth) == (np.indices(truth.shape)[1] >= 6)).all()
    assert scores.boundary_recall((np.indices(truth.shape)[1] >= 6).astype(int), truth, 0) == 1


@pytest.mark.parametrize(("width", "localised"), [(4, 1), (8, 1), (9, 0)])
def test_an_object_is_localised_from_an_iou_of_a_half(width, localised):
    objects, mask = np.zeros((6, 12), int), np.zeros((6, 12), bool)
    objects[1:5, 1:5] = 2
    mask[1, 1] = mask[4, width] = True  # corners of a box of 4 x width pixels, which contains the object
    assert scores.is_localised(mask, objects) == localised
    assert math.isnan(scores.is_localised(mask, np.zeros_like(objects)))
    assert scores.is_localised(np.zeros_like(mask), objects) == 0


def test_dead_slots_are_never_the_strongest():
    assert scores.dead_slots(np.array([[0, 3], [3, 5]]), 8) == 5


def test_maps_of_different_sizes_raise():
    with pytest.raises(ValueError, match=r"\(2, 3\).*\(3, 2\)"):
        scores.purity(np.zeros((2, 3), int), np.zeros((3, 2), int))
