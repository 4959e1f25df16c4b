"""Base class of all data modules: splits, loaders and exact resume."""

from collections.abc import Callable
from typing import Any

from PIL import Image
from torch.utils.data import DataLoader, Dataset

from ...compat import finished_epochs
from ...errors import InputError, MissingExtraError

try:
    from lightning.pytorch import LightningDataModule
except ImportError as error:
    raise MissingExtraError(f"Data modules need {error.name}: pip install 'glmix[train]'") from error

from .loaders import eval_loader, train_loader
from .splits import Split

__all__ = ["DataModule", "already_collated"]

SPLITS: dict[str | None, tuple[Split, ...]] = {"fit": ("train", "val"), "validate": ("val",), "test": ("test",)}


def already_collated(batch: Any) -> Any:
    """Return `batch` unchanged: the collate function of data sets that build whole batches in `__getitems__`."""
    return batch


class DataModule(LightningDataModule):
    """Lightning data module whose training loader resumes at the exact sample. Subclasses implement `open_split`.

    After `setup`, a data module has `num_classes`, `class_names` (None if the classes have no names) and image
    properties that its task needs, such as `input_size`, `mean` and `std`.

    A subclass takes these arguments as `**kwargs`, and names those whose defaults it changes.

    Args:
        batch_size: training samples per batch and process.
        eval_batch_size: samples per batch and process in validation and testing; None for `batch_size`.
        num_workers: worker processes of each loader, per training process.
        seed: seed of the sample order and of the augmentation.
        repeats: number of consecutive draws of each sample (repeated augmentation); 1 disables it.
    """

    num_classes: int | None = 0
    class_names: list[str] | None = None
    # function that turns a list of samples into a batch; None for torch's default
    collate: Any = None

    def __init__(
        self,
        batch_size: int = 16,
        eval_batch_size: int | None = None,
        num_workers: int = 4,
        seed: int = 0,
        repeats: int = 1,
    ) -> None:
        super().__init__()
        eval_batch_size = batch_size if eval_batch_size is None else eval_batch_size
        for name, value in (("batch_size", batch_size), ("eval_batch_size", eval_batch_size), ("repeats", repeats)):
            if value < 1:
                raise InputError(f"{name} must be at least 1, got {value}.")
        if num_workers < 0:
            raise InputError(f"num_workers must be 0 or more, got {num_workers}.")
        self.batch_size, self.eval_batch_size = batch_size, eval_batch_size
        self.num_workers, self.seed, self.repeats = num_workers, seed, repeats
        self.splits: dict[Split, Any] = {}

    def open_split(self, split: Split) -> Dataset[Any]:
        """Return the data set of a split, indexed with `Draw`s for training and with integers otherwise."""
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
        """Return a loader that yields each sample of a split exactly once."""
        dataset = self.splits[split]
        return eval_loader(
            dataset, len(dataset), self.eval_batch_size, num_workers=self.num_workers, collate=self.collate
        )

    def sample_name(self, split: Split, index: int) -> str | None:
        """Return the name of a sample of evaluation, such as its file below the root; None if it has no name."""
        find: Callable[[int], str | None] | None = getattr(self.splits[split], "sample_name", None)
        return None if find is None else find(index)

    def sample_picture(self, split: Split, index: int) -> Image.Image | None:
        """Return the image of a sample of evaluation without transforms; None if it cannot be read.

        A split that leaves out files that cannot be read in evaluation must have a method `sample_picture`.
        """
        find: Callable[[int], Image.Image | None] | None = getattr(self.splits[split], "sample_picture", None)
        return None if find is None else find(index)

    def resume_position(self) -> dict[str, Any]:
        """Return the keyword arguments `limit` (batches per epoch) and `epoch` (first epoch) of the training loader.

        Lightning does not restore the state of the loader from a checkpoint that was saved between two epochs, and it
        requests the first batch before it calls `set_epoch`.
        """
        trainer = self.trainer
        limit = getattr(trainer, "limit_train_batches", None)
        is_count = isinstance(limit, int) and not isinstance(limit, bool) and limit > 0
        return {"limit": limit if is_count else None, "epoch": finished_epochs(trainer) if trainer is not None else 0}
