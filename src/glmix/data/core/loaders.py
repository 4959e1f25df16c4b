"""Data loaders: training with exact resume, evaluation with each sample once, and streams."""

import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset

from ...compat import restart_finished_iterator
from ...errors import MissingExtraError

try:
    from torchdata.stateful_dataloader import StatefulDataLoader  # type: ignore[import-untyped]
except ImportError as error:
    raise MissingExtraError(f"Loading training data needs {error.name}: pip install 'glmix[train]'") from error

from .sampling import EpochSampler, ShardSampler, process_rank
from .workers import init_worker

__all__ = ["TrainLoader", "eval_loader", "stream_loader", "train_loader"]


class TrainLoader(StatefulDataLoader):  # type: ignore[misc]
    """`StatefulDataLoader` of torchdata with a fix for checkpoints from the end of an epoch.

    A trainer that counts batches does not request the batch after the last one. The loader therefore does not notice
    that the epoch has ended, and would resume with an empty epoch.
    """

    # a private method, because torchdata has no public hook for every new iterator
    def _get_iterator(self) -> Any:
        iterator = super()._get_iterator()
        restart_finished_iterator(iterator, len(self))
        return iterator


def train_loader(
    dataset: Dataset[Any],
    length: int,
    batch_size: int,
    *,
    seed: int = 0,
    repeats: int = 1,
    shuffle: bool = True,
    limit: int | None = None,
    epoch: int = 0,
    num_workers: int = 0,
    collate: Callable[[Any], Any] | None = None,
    classes: Tensor | None = None,
) -> TrainLoader:
    """Return the training loader of this process. It indexes the data set with the draws of an `EpochSampler`.

    Args:
        dataset: data set that is indexed with `Draw`s.
        length: number of samples in the data set.
        batch_size: samples per batch and process.
        seed: seed of the sample order.
        repeats: number of consecutive draws of each sample (repeated augmentation).
        shuffle: shuffle the samples in every epoch.
        limit: maximum number of batches per epoch.
        epoch: first epoch. A loaded state replaces it.
        num_workers: worker processes.
        collate: function that turns a list of samples into a batch; None for torch's default.
        classes: class of each sample (length,) for balanced sampling; None to draw each sample once per epoch.
    """
    rank, world = process_rank()
    sampler = EpochSampler(
        length,
        batch_size,
        seed=seed,
        repeats=repeats,
        shuffle=shuffle,
        limit=limit,
        rank=rank,
        world=world,
        classes=classes,
    )
    sampler.set_epoch(epoch)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*set_vital.*")  # torchdata causes this warning
        return TrainLoader(
            dataset,
            batch_size=batch_size,
            sampler=sampler,
            drop_last=True,
            num_workers=num_workers,
            worker_init_fn=init_worker,
            collate_fn=collate,
            pin_memory=torch.cuda.is_available(),
            # otherwise, the loader would draw a random number from the global generator of the task in every epoch
            generator=torch.Generator(),
        )


def eval_loader(
    dataset: Dataset[Any],
    length: int,
    batch_size: int,
    *,
    num_workers: int = 0,
    collate: Callable[[Any], Any] | None = None,
) -> DataLoader[Any]:
    """Return a loader of the samples of this process, in order. All processes together yield each sample once."""
    rank, world = process_rank()
    return DataLoader(
        dataset,
        batch_size=batch_size,
        sampler=ShardSampler(length, rank, world),
        num_workers=num_workers,
        worker_init_fn=init_worker,
        collate_fn=collate,
        pin_memory=torch.cuda.is_available(),
        generator=torch.Generator(),
    )


def stream_loader(dataset: IterableDataset[Any], batch_size: int, *, num_workers: int = 0) -> DataLoader[Any]:
    """Return a loader of a stream that distributes its samples to processes and workers itself."""
    return DataLoader(
        dataset,
        batch_size=batch_size,
        num_workers=num_workers,
        worker_init_fn=init_worker,
        pin_memory=torch.cuda.is_available(),
        generator=torch.Generator(),
    )
