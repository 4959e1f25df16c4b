"""Sample order of training as a pure function of (seed, epoch, position), for any number of processes.

The training sampler yields `Draw`s instead of indices. A draw contains everything that the augmentation of a sample
depends on. Workers therefore need no generator state, and a resumed run gets bit-identical batches.
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
    """One training sample: the epoch, the position in the epoch over all processes, and the index in the data set."""

    epoch: int
    position: int
    sample: int


def process_rank() -> tuple[int, int]:
    """Return the rank of this process and the number of processes."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        return torch.distributed.get_rank(), torch.distributed.get_world_size()
    return 0, 1


def seed_of(*parts: int) -> int:
    """Return a 63-bit seed that is statistically independent for every sequence of non-negative integers."""
    return int(np.random.SeedSequence(parts).generate_state(1, np.uint64)[0] >> np.uint64(1))


@contextlib.contextmanager
def seeded(*parts: int) -> Iterator[None]:
    """Seed the global generators of Python, numpy and torch with `seed_of(*parts)` and restore their states afterwards.

    The transforms of timm and torchvision use all three.
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
    """Sampler of shuffled full batches for one process, in an order that only depends on (seed, epoch).

    Positions are distributed to the processes in turn. Batch b of all processes together has the positions from
    b * batch_size * world, so that two processes with half the batch size get the same samples as one process. An
    incomplete last batch is dropped.

    Args:
        length: number of samples in the data set.
        batch_size: samples per batch and process.
        seed: seed of the order.
        repeats: number of consecutive draws of each sample, each with another augmentation (repeated augmentation).
            The length of an epoch does not change: it contains `1 / repeats` of the samples.
        shuffle: shuffle the samples in every epoch; otherwise keep the order of the data set.
        limit: maximum number of batches per epoch.
        rank: rank of this process.
        world: number of processes.
        classes: class of each sample (length,). All classes get the same number of draws of an epoch, up to one, and
            the samples of a class too. None draws each sample once.
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
        classes: Tensor | None = None,
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
        self.members: list[Tensor] | None = None  # indices of the samples of each class
        if classes is not None:
            _, counts = classes.unique(return_counts=True)
            self.members = list(classes.argsort(stable=True).split(counts.tolist()))

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch of the next iteration. Without a call, it is the one after the last completed epoch."""
        self.epoch = epoch

    def order(self, epoch: int) -> Tensor:
        """Return the order of the data set indices (length,) in an epoch, before repetition."""
        if not self.shuffle:
            return torch.arange(self.length)
        generator = torch.Generator().manual_seed(seed_of(self.seed, epoch))
        order = torch.randperm(self.length, generator=generator)
        if self.members is None:
            return order
        counts = torch.full((len(self.members),), self.length // len(self.members))
        counts[torch.randperm(len(counts), generator=generator)[: self.length % len(counts)]] += 1
        draws = []
        for members, count in zip(self.members, counts.tolist(), strict=True):
            passes = -(-count // len(members))
            draws += [members[torch.randperm(len(members), generator=generator)] for _ in range(passes)]
            draws[-1] = draws[-1][: count - (passes - 1) * len(members)]
        return torch.cat(draws)[order]

    def __len__(self) -> int:
        return self.batches * self.batch_size

    def __iter__(self) -> "_EpochIterator":
        return _EpochIterator(self)


class _EpochIterator(Iterator[Draw]):
    """Iterator over one epoch of an `EpochSampler`, with a state that `StatefulDataLoader` saves and restores."""

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
        # a checkpoint from the end of an epoch resumes with the next epoch
        self.sampler.epoch = self.epoch + (self.drawn >= len(self.sampler))


class ShardSampler(Sampler[int]):
    """Sampler that distributes all indices to the processes in order, without padding. Shard sizes may differ by 1."""

    def __init__(self, length: int, rank: int = 0, world: int = 1) -> None:
        self.indices = range(rank, length, world)

    def __len__(self) -> int:
        return len(self.indices)

    def __iter__(self) -> Iterator[int]:
        return iter(self.indices)
