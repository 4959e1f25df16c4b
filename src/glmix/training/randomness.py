"""Randomness as a function of where training stands, so that there is no hidden state to save.

Before every batch the generators of Python, numpy and torch are seeded from (seed, rank, epoch, batch). A run that is
resumed draws what an uninterrupted one would have drawn, whatever was drawn in between, such as by validation.
"""

import random

import numpy as np
import torch

__all__ = ["seed_position"]


def seed_position(seed: int, rank: int, epoch: int, batch: int, stream: int = 0) -> None:
    """Seed every generator of this process, on all its devices, for one place in a training.

    Args:
        stream: 0 for what the training step draws, 1 for what loading the next batch draws.
    """
    words = np.random.SeedSequence([seed, rank, epoch, batch, stream]).generate_state(3)
    random.seed(int(words[0]))
    np.random.seed(int(words[1]))
    torch.manual_seed(int(words[2]))
