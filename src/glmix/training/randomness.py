"""Random seeds as a function of the training position, so that checkpoints need no generator states.

The generators of Python, numpy and torch are seeded before every batch from (seed, rank, epoch, batch). A resumed run
therefore draws the same numbers as an uninterrupted run, independent of the numbers that other code has drawn.
"""

import random

import numpy as np
import torch

__all__ = ["seed_position"]


def seed_position(seed: int, rank: int, epoch: int, batch: int, stream: int = 0) -> None:
    """Seed all random number generators of this process, on all devices, for one position of the training.

    Args:
        seed: seed of the training.
        rank: rank of this process.
        epoch: index of the epoch.
        batch: index of the batch in the epoch.
        stream: 0 for the training step, 1 for loading the next batch.
    """
    words = np.random.SeedSequence([seed, rank, epoch, batch, stream]).generate_state(3)
    random.seed(int(words[0]))
    np.random.seed(int(words[1]))
    torch.manual_seed(int(words[2]))
