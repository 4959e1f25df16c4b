"""The two loaders of every data module: one that trains and resumes exactly, one that sees each sample once."""

import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset, IterableDataset

from ...compat import restart_finished_iterator
from ...errors import MissingExtraError

try:
    from torchdata.stateful_dataloader import StatefulDataLoader  # type: ignore[import-untyped]
except ImportError as error:
    raise MissingExtraError(f"Loading training data needs {error.name}: pip install 'glmix[train]'") from error

from .sampling import EpochSampler, ShardSampler, process_rank
from .workers import leave_signals_to_main_process

__all__ = ["TrainLoader", "eval_loader", "stream_loader", "train_loader"]


class TrainLoader(StatefulDataLoader):  # type: ignore[misc]
    """torchdata's loader, which saves its position, mended for checkpoints from the end of an epoch.

    Whoever counts batches never asks for the one after the last, so the loader does not know that the epoch is over
    and would resume with nothing left of it.
    """

    # a private method, because torchdata has no public one that sees every new iterator
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
) -> TrainLoader:
    """A loader whose data set is asked for draws (see `EpochSampler`), in this process's share of whole batches.

    It begins with `epoch`, unless a state that is loaded says otherwise.
    """
    rank, world = process_rank()
    sampler = EpochSampler(
        length, batch_size, seed=seed, repeats=repeats, shuffle=shuffle, limit=limit, rank=rank, world=world
    )
    sampler.set_epoch(epoch)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*set_vital.*")  # torchdata calls it; nobody here can mend that
        return TrainLoader(
            dataset,
            batch_size=batch_size,
            sampler=sampler,
            drop_last=True,
            num_workers=num_workers,
            worker_init_fn=leave_signals_to_main_process,
            collate_fn=collate,
            pin_memory=torch.cuda.is_available(),
            # its own: otherwise every epoch would take a number from the global generator, which belongs to the task
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
    """A loader of this process's share in order: no sample is left out, none comes twice."""
    rank, world = process_rank()
    return DataLoader(
        dataset,
        batch_size=batch_size,
        sampler=ShardSampler(length, rank, world),
        num_workers=num_workers,
        worker_init_fn=leave_signals_to_main_process,
        collate_fn=collate,
        pin_memory=torch.cuda.is_available(),
        generator=torch.Generator(),
    )


def stream_loader(dataset: IterableDataset[Any], batch_size: int, *, num_workers: int = 0) -> DataLoader[Any]:
    """A loader of a stream that deals its samples to processes and workers itself."""
    return DataLoader(
        dataset,
        batch_size=batch_size,
        num_workers=num_workers,
        worker_init_fn=leave_signals_to_main_process,
        pin_memory=torch.cuda.is_available(),
        generator=torch.Generator(),
    )
