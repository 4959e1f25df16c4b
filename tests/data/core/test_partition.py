"""Random splits: shares, strata, groups and independence of the order; balanced sampling."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from glmix.data.core.partition import SplitConfig, partition
from glmix.data.core.sampling import EpochSampler
from glmix.errors import InputError

CLASSES = st.lists(st.integers(0, 4), min_size=12, max_size=80)


def names_of(count: int) -> list[str]:
    return [f"image{index}.png" for index in range(count)]


@settings(deadline=None, max_examples=50)
@given(CLASSES, st.integers(0, 5))
def test_strata_have_the_same_shares_in_all_splits(classes: list[int], seed: int) -> None:
    strata = np.array(classes)
    config = SplitConfig(val=0.25, test=0.2, seed=seed)
    val, test = config.counts(len(strata))
    if val + test > len(strata) - len(set(classes)):
        with pytest.raises(InputError, match="each class needs a training image"):
            partition(names_of(len(strata)), strata, config)
        return
    splits = partition(names_of(len(strata)), strata, config)
    assert ((splits == "val").sum(), (splits == "test").sum()) == (val, test)
    assert set(strata[splits == "train"]) == set(classes)
    sizes = np.bincount(strata, minlength=5)
    exact = sizes * val / len(strata)
    found = np.bincount(strata[splits == "val"], minlength=5)
    limited = (sizes > 0) & (np.ceil(exact) > sizes - 1)  # each class keeps a training image
    if not limited.any():
        assert (np.abs(found - exact) < 1).all()
    else:
        assert (found <= np.maximum(sizes - 1, 0)).all()


@settings(deadline=None, max_examples=50)
@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 11)), min_size=40, max_size=120), st.integers(0, 5))
def test_no_group_is_in_two_splits(images: list[tuple[int, int]], seed: int) -> None:
    strata, groups = (np.array(column) for column in zip(*images, strict=True))
    config = SplitConfig(val=0.3, seed=seed, group="place")
    try:
        splits = partition(names_of(len(strata)), strata, config, groups)
    except InputError as error:
        assert len(set(groups)) < 12, error  # noqa: PT017
        return
    for group in set(groups):
        assert len(set(splits[groups == group])) == 1
    assert set(splits) == {"train", "val"}


def test_groups_of_one_size_give_the_requested_shares() -> None:
    groups = np.repeat(np.arange(60), 5)
    strata = np.repeat(np.arange(60) % 3, 5)
    splits = partition(names_of(300), strata, SplitConfig(val=0.2, test=0.1, group="place"), groups)
    for stratum in range(3):
        found = splits[strata == stratum]
        assert abs((found == "val").sum() - 20) <= 5
        assert abs((found == "test").sum() - 10) <= 5
    assert abs((splits == "val").sum() - 60) <= 5


@settings(deadline=None, max_examples=20)
@given(st.randoms(use_true_random=False), st.booleans())
def test_the_split_does_not_depend_on_the_order_of_the_images(random, grouped) -> None:
    names, strata = names_of(40), np.arange(40) % 3
    groups = [f"place {index // 4}" for index in range(40)]
    order = list(range(40))
    random.shuffle(order)
    config = SplitConfig(test=0.1, group="place" if grouped else None)
    one = partition(names, strata, config, groups if grouped else None)
    two = partition([names[i] for i in order], strata[order], config, [groups[i] for i in order] if grouped else None)
    assert dict(zip(names, one, strict=True)) == {names[i]: split for i, split in zip(order, two, strict=True)}


def test_counts_seeds_and_invalid_splits() -> None:
    strata = np.arange(30) % 2
    first, second = (partition(names_of(30), strata, SplitConfig(val=7, seed=seed)) for seed in (0, 1))
    assert (first == "val").sum() == (second == "val").sum() == 7
    assert not np.array_equal(first, second)
    unequal = partition(names_of(30), strata, SplitConfig(val=15, stratify=False))
    assert (unequal == "val").sum() == 15
    for options, words in (
        ({"val": 0}, "split.val must be a share below 1"),
        ({"val": 2.5}, "whole number"),
        ({"test": -1}, "split.test"),
        ({"seed": -1}, "split.seed"),
    ):
        with pytest.raises(InputError, match=words):
            SplitConfig(**options)
    with pytest.raises(InputError, match="leave no training image of 30 images"):
        partition(names_of(30), strata, SplitConfig(val=20, test=10))
    with pytest.raises(InputError, match="too few groups in the column 'place' for the split val"):
        partition(names_of(30), strata, SplitConfig(group="place"), ["one"] * 30)


@pytest.mark.parametrize("world", [1, 2])
def test_balanced_sampling_draws_all_classes_equally_often(world: int) -> None:
    classes = torch.tensor([0] * 70 + [1] * 20 + [5] * 10)
    draws: list[int] = []
    for rank in range(world):
        sampler = EpochSampler(100, 20 // world, seed=3, rank=rank, world=world, classes=classes)
        draws += [draw.sample for draw in sampler]
    drawn = torch.tensor(draws)
    counts = classes[drawn].bincount(minlength=6)
    assert counts[[0, 1, 5]].min() >= 33
    assert counts[[0, 1, 5]].max() <= 34
    per_sample = drawn.bincount(minlength=100)
    assert per_sample[:70].max() == 1  # 33 or 34 of 70 samples, none twice
    assert set(per_sample[70:90].tolist()) == {1, 2}
    assert set(per_sample[90:].tolist()) == {3, 4}


def test_balanced_sampling_depends_only_on_seed_and_epoch() -> None:
    classes = torch.arange(50) % 7 // 3
    sampler = EpochSampler(50, 5, seed=1, classes=classes)
    first, second = list(sampler), list(sampler)
    assert [draw.sample for draw in first] != [draw.sample for draw in second]
    again = EpochSampler(50, 5, seed=1, classes=classes)
    iterator = iter(again)
    iterator.load_state_dict({"epoch": 1, "drawn": 15})
    assert list(iterator) == second[15:]
