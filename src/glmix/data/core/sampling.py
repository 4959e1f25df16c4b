"""Which sample stands at which place of an epoch: a pure function of (seed, epoch, position), on any number of ranks.

A training sampler yields draws, not bare indices. A draw carries all that the randomness of a sample may depend on,
so that workers keep no generator and a run that was killed and resumed sees the same batches to the bit.
"""

import contextlib
import operator
import random
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Sampler

from ...errors import InputError

__all__ = ["Draw", "EpochSampler", "ShardSampler", "process_rank", "seed_of", "seeded"]


class Draw(NamedTuple):
    """One sample of training: where it stands in the epoch, over all processes, and which one of the data set it is."""

    epoch: int
    position: int
    sample: int


def process_rank() -> tuple[int, int]:
    """This process's rank and the number of processes that train together."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        return torch.distributed.get_rank(), torch.distributed.get_world_size()
    return 0, 1


def seed_of(*parts: int) -> int:
    """A seed of 63 bits, different and unrelated for every sequence of non-negative numbers."""
    return int(np.random.SeedSequence(parts).generate_state(1, np.uint64)[0] >> np.uint64(1))


@contextlib.contextmanager
def seeded(*parts: int) -> Iterator[None]:
    """Let the global generators of Python, numpy and torch begin at `seed_of(*parts)`, and put them back after.

    timm's and torchvision's transforms draw from all three.
    """
    seed = seed_of(*parts)
    outer = random.getstate(), np.random.get_state(), torch.get_rng_state()
    try:
        random.seed(seed)
        np.random.seed(seed % 2**32)
        torch.random.default_generator.manual_seed(seed)
        yield
    finally:
        random.setstate(outer[0])
        np.random.set_state(outer[1])
        torch.set_rng_state(outer[2])


class EpochSampler(Sampler[Draw]):
    """Shuffled whole batches of one process, in an order that depends on (seed, epoch) alone.

    Ranks take turns: batch b of all processes together holds the positions from b * batch_size * world on, so that
    two processes with half the batch see what one process sees. Samples that fill no whole batch are left out of an
    epoch. Its length is a whole number of batches.

    Args:
        length: number of samples in the data set.
        batch_size: samples a batch in each process.
        seed: gives other orders.
        repeats: how often a sample stands in the order before the next one comes, with different augmentation each
            time (repeated augmentation). An epoch stays as long as it was: it sees `1 / repeats` of the samples.
        shuffle: without it the order is that of the data set.
        limit: most batches in an epoch.
        rank, world: this process and how many there are.
    """

    def __init__(
        self,
        length: int,
        batch_size: int,
        *,
        seed: int = 0,
        repeats: int = 1,
        shuffle: bool = True,
        limit: int | None = None,
        rank: int = 0,
        world: int = 1,
    ) -> None:
        for name, value in (("batch_size", batch_size), ("repeats", repeats), ("world", world)):
            if operator.index(value) < 1:
                raise InputError(f"{name} must be at least 1, got {value}.")
        if not 0 <= rank < world:
            raise InputError(f"rank must be from 0 to {world - 1}, got {rank}.")
        if seed < 0:
            raise InputError(f"seed must be 0 or more, got {seed}.")
        batches = length // (batch_size * world)
        if batches < 1:
            raise InputError(
                f"There are {length} training samples, too few for one batch of {batch_size} in each of {world} "
                f"process{'es' * (world > 1)}: batch_size may be at most {length // world}."
            )
        self.length = length
        self.batches = batches if limit is None else min(batches, limit)
        self.batch_size, self.repeats, self.shuffle = batch_size, repeats, shuffle
        self.seed, self.rank, self.world = seed, rank, world
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """The next iteration draws this epoch; without a call, the one after that which ended last."""
        self.epoch = epoch

    def order(self, epoch: int) -> Tensor:
        """(length,): the data set's indices as this epoch draws them, before they are repeated."""
        if not self.shuffle:
            return torch.arange(self.length)
        return torch.randperm(self.length, generator=torch.Generator().manual_seed(seed_of(self.seed, epoch)))

    def __len__(self) -> int:
        return self.batches * self.batch_size

    def __iter__(self) -> "_EpochIterator":
        return _EpochIterator(self)


class _EpochIterator(Iterator[Draw]):
    """One epoch of an `EpochSampler`, with a state that torchdata's loader saves and restores."""

    def __init__(self, sampler: EpochSampler) -> None:
        self.sampler = sampler
        self.epoch = sampler.epoch
        self.drawn = 0
        self.order: Tensor | None = None

    def __next__(self) -> Draw:
        if self.drawn >= len(self.sampler):
            self.sampler.epoch = self.epoch + 1
            raise StopIteration
        if self.order is None:
            self.order = self.sampler.order(self.epoch)
        position = self.drawn * self.sampler.world + self.sampler.rank
        self.drawn += 1
        return Draw(self.epoch, position, int(self.order[position // self.sampler.repeats]))

    def state_dict(self) -> dict[str, Any]:
        return {"epoch": self.epoch, "drawn": self.drawn}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.epoch, self.drawn = state["epoch"], state["drawn"]
        self.order = None
        # a checkpoint from the end of an epoch begins the next one
        self.sampler.epoch = self.epoch + (self.drawn >= len(self.sampler))


class ShardSampler(Sampler[int]):
    """Every index once over all processes, in order; shards differ by at most one, and none is filled up."""

    def __init__(self, length: int, rank: int = 0, world: int = 1) -> None:
        self.indices = range(rank, length, world)

    def __len__(self) -> int:
        return len(self.indices)

    def __iter__(self) -> Iterator[int]:
        return iter(self.indices)
