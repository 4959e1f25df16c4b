"""Random division of samples into training, validation and test data, as a pure function of their names and a seed."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...errors import InputError
from .splits import Split

__all__ = ["SplitConfig", "partition"]

SPLITS: tuple[Split, ...] = ("train", "val", "test")
Ints = NDArray[np.int64]


@dataclass(frozen=True)
class SplitConfig:
    """Configuration of a random split. The rest of the images is for training.

    Args:
        val: validation images: a share below 1, or a number of images.
        test: test images: a share below 1, or a number of images; 0 tests on the validation images.
        seed: seed of the split.
        stratify: give all splits the same shares of the classes, as far as their numbers of images allow.
        group: column of the list with the group of an image, such as a patient or a place. All images of a group are in
            one split; None for no groups.
    """

    val: float = 0.2
    test: float = 0.0
    seed: int = 0
    stratify: bool = True
    group: str | None = None

    def __post_init__(self) -> None:
        if self.val <= 0:
            raise InputError(f"split.val must be a share below 1 or a number of images, above 0, got {self.val}.")
        if self.test < 0:
            raise InputError(f"split.test must be a share below 1 or a number of images, 0 or more, got {self.test}.")
        for name in ("val", "test"):
            value = getattr(self, name)
            if value > 1 and value != int(value):
                raise InputError(f"split.{name} must be a share below 1 or a whole number of images, got {value}.")
        if self.seed < 0:
            raise InputError(f"split.seed must be 0 or more, got {self.seed}.")

    def counts(self, total: int) -> tuple[int, int]:
        """Return the numbers of validation and test images of `total` images.

        Raises:
            InputError: if no image remains for training.
        """
        val, test = (
            int(part) if part >= 1 else max(1, round(part * total)) if part else 0 for part in (self.val, self.test)
        )
        if val + test >= total:
            raise InputError(
                f"split.val of {self.val:g} and split.test of {self.test:g} leave no training image of {total} images."
            )
        return val, test


def partition(
    names: Sequence[str], strata: Ints, config: SplitConfig, groups: Sequence[Any] | None = None
) -> NDArray[np.str_]:
    """Return the split of each sample (N,). It depends on the names and the seed, not on the order of the samples.

    Without groups the numbers of samples are exact, and each stratum keeps at least one training sample. With groups
    they are as close as the sizes of the groups allow, and each stratum keeps at least one group for training.

    Args:
        names: unique name of each sample.
        strata: class of each sample (N,), whose shares are the same in all splits; ignored without `config.stratify`.
        config: configuration of the split.
        groups: group of each sample; None if each sample is its own group.

    Raises:
        InputError: if there are too few samples or groups.
    """
    order = np.argsort(np.asarray(names))
    strata = strata[order] if config.stratify else np.zeros(len(order), np.int64)
    counts = np.array(config.counts(len(order)))
    random = np.random.default_rng(config.seed)
    if groups is None:
        found = _stratified(strata, counts, random)
    else:
        found = _grouped(strata, np.asarray([str(group) for group in groups])[order], counts, random)
    for split, count in zip((1, 2), counts, strict=True):
        if count and not (found == split).any():
            raise InputError(
                f"There are too few groups in the column {config.group!r} for the split {SPLITS[split]}: reduce "
                "split.val and split.test, or leave split.group out."
            )
    splits = np.empty(len(order), dtype="<U5")
    splits[order] = np.array(SPLITS)[found]
    return splits


def _stratified(strata: Ints, counts: Ints, random: np.random.Generator) -> Ints:
    """Return the index of the split of each sample, with the exact numbers of validation and test samples."""
    order = random.permutation(len(strata))
    order = order[np.argsort(strata[order], kind="stable")]  # a shuffled run of samples per stratum
    _, starts, sizes = np.unique(strata[order], return_index=True, return_counts=True)
    found = np.zeros(len(strata), np.int64)
    taken = np.zeros_like(sizes)
    for split, count in enumerate(counts, start=1):
        quotas = _quotas(sizes, int(count), sizes - 1 - taken, random)
        for start, quota in zip(starts + taken, quotas, strict=True):
            found[order[start : start + quota]] = split
        taken += quotas
    return found


def _quotas(sizes: Ints, count: int, limits: Ints, random: np.random.Generator) -> Ints:
    """Divide `count` samples among strata in proportion to their sizes (largest remainders), with an upper limit each.

    Raises:
        InputError: if the sum of the limits is below `count`.
    """
    if limits.sum() < count:
        raise InputError(
            f"split.val and split.test are too large for {sizes.sum()} images of {len(sizes)} classes, because each "
            "class needs a training image: reduce them, or set split.stratify to false."
        )
    exact = sizes * count / sizes.sum()
    quotas = np.minimum(np.floor(exact).astype(np.int64), limits)
    while (missing := count - quotas.sum()) > 0:
        open_strata = np.flatnonzero(quotas < limits)
        remainders = exact[open_strata] - quotas[open_strata]
        chosen = open_strata[np.lexsort((random.random(len(open_strata)), -remainders))][:missing]
        quotas[chosen] += 1
    return quotas


def _grouped(strata: Ints, groups: NDArray[np.str_], counts: Ints, random: np.random.Generator) -> Ints:
    """Return the index of the split of each sample, the same for all samples of a group.

    Each group, the largest first, goes to the split that lacks most samples: of its most frequent stratum and in total.
    """
    _, of = np.unique(groups, return_inverse=True)
    _, stratum_of = np.unique(strata, return_inverse=True)
    shares = np.array([len(of) - counts.sum(), *counts]) / len(of)
    sizes = np.bincount(of)
    pairs, frequency = np.unique(np.stack([of, stratum_of]), axis=1, return_counts=True)
    most = np.empty(len(sizes), np.int64)
    rising = np.argsort(frequency, kind="stable")
    most[pairs[0, rising]] = pairs[1, rising]  # the most frequent stratum is assigned last
    order = random.permutation(len(sizes))
    order = order[np.argsort(-sizes[order], kind="stable")]
    held = np.zeros((stratum_of.max() + 1, 3))
    total = np.zeros(3)
    chosen = np.zeros(len(sizes), np.int64)
    for group in order:
        own = held[most[group]]
        size = sizes[group]
        lacking = shares * (own.sum() + size) - own + shares * (total.sum() + size) - total
        split = int(lacking.argmax()) if own[0] else 0
        own[split] += size
        total[split] += size
        chosen[group] = split
    return chosen[of]
