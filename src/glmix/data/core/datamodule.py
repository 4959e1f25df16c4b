"""The base data module: splits, loaders and exact resume, shared by all tasks."""

from collections.abc import Callable
from typing import Any

from torch.utils.data import DataLoader, Dataset

from ...compat import finished_epochs
from ...errors import InputError, MissingExtraError

try:
    from lightning.pytorch import LightningDataModule
except ImportError as error:
    raise MissingExtraError(f"Data modules need {error.name}: pip install 'glmix[train]'") from error

from ..scenes import Split
from .loaders import eval_loader, train_loader

__all__ = ["DataModule", "already_collated"]

SPLITS: dict[str | None, tuple[Split, ...]] = {"fit": ("train", "val"), "validate": ("val",), "test": ("test",)}


def already_collated(batch: Any) -> Any:
    """Return the batch of a data set that puts its batches together itself (`__getitems__`)."""
    return batch


class DataModule(LightningDataModule):
    """Open splits on demand and build loaders that resume exactly. Subclasses implement `open_split`.

    After `setup`, a data module has `num_classes`, `class_names` (None if the classes have no names) and what its
    task needs to know about the images, such as `input_size`, `mean` and `std`.

    Args:
        batch_size: training samples per batch and process.
        eval_batch_size: samples per batch and process in validation and testing.
        num_workers: worker processes of each loader.
        seed: seed of the sample order and of augmentation.
        repeats: repeated augmentation: how many times in a row each sample is drawn.
        collate: function that turns a list of samples into a batch; None for torch's default.
    """

    num_classes: int = 0
    class_names: list[str] | None = None

    def __init__(
        self,
        batch_size: int,
        eval_batch_size: int,
        num_workers: int,
        seed: int,
        *,
        repeats: int = 1,
        collate: Callable[[Any], Any] | None = None,
    ) -> None:
        super().__init__()
        for name, value in (("batch_size", batch_size), ("eval_batch_size", eval_batch_size), ("repeats", repeats)):
            if value < 1:
                raise InputError(f"{name} must be at least 1, got {value}.")
        if num_workers < 0:
            raise InputError(f"num_workers must be 0 or more, got {num_workers}.")
        self.batch_size, self.eval_batch_size = batch_size, eval_batch_size
        self.num_workers, self.seed, self.repeats = num_workers, seed, repeats
        self.collate = collate
        self.splits: dict[Split, Any] = {}

    def open_split(self, split: Split) -> Dataset[Any]:
        """Return the data set of a split. The training split is indexed by `Draw`s, the others by numbers."""
        raise NotImplementedError

    def setup(self, stage: str | None = None) -> None:
        for split in SPLITS.get(stage, ("train", "val", "test")):
            if split not in self.splits:
                self.splits[split] = self.open_split(split)

    def train_dataloader(self) -> Any:
        dataset = self.splits["train"]
        return train_loader(
            dataset,
            len(dataset),
            self.batch_size,
            seed=self.seed,
            repeats=self.repeats,
            **self.resume_position(),
            num_workers=self.num_workers,
            collate=self.collate,
        )

    def val_dataloader(self) -> DataLoader[Any]:
        return self.eval_dataloader("val")

    def test_dataloader(self) -> DataLoader[Any]:
        return self.eval_dataloader("test")

    def eval_dataloader(self, split: Split) -> DataLoader[Any]:
        """Return a loader that yields each sample of a split once."""
        dataset = self.splits[split]
        return eval_loader(
            dataset, len(dataset), self.eval_batch_size, num_workers=self.num_workers, collate=self.collate
        )

    def resume_position(self) -> dict[str, Any]:
        """Return what a training loader needs to know about the trainer: batches per epoch and the first epoch.

        Lightning does not restore the loader's state from a checkpoint that was written between two epochs, and it
        asks for the first batch before it announces the epoch.
        """
        trainer = self.trainer
        limit = getattr(trainer, "limit_train_batches", None)
        counted = isinstance(limit, int) and not isinstance(limit, bool) and limit > 0
        return {"limit": limit if counted else None, "epoch": finished_epochs(trainer) if trainer is not None else 0}
