"""Data modules of detection and instance segmentation: COCO, a COCO-style JSON of one's own, and scenes.

A batch is (images, targets), two lists; see `DetectionSamples`. Images come as they are stored, uint8; whoever
detects normalises them. Training resizes them here, with their boxes and masks; evaluation leaves that to the
detector, which answers in pixels of the image that it was given. `batch_size` is that of one process.
"""

import os
from pathlib import Path
from typing import Any

from torch.utils.data import DataLoader

from ...errors import InputError, MissingExtraError

try:
    from lightning.pytorch import LightningDataModule
except ImportError as error:
    raise MissingExtraError(f"Data modules need {error.name}: pip install 'glmix[train]'") from error

from ..loaders import eval_loader, train_loader
from ..modules import training_of
from ..scenes import SceneConfig, SceneDataset, Split
from .files import EmptyBoxes, open_coco, read_categories
from .samples import CocoSource, DetectionSamples, ObjectSource, SceneSource, collate_objects
from .transforms import DetectionTransform, flips

__all__ = ["CocoData", "DetectionScenes"]

SPLITS: dict[str | None, tuple[Split, ...]] = {"fit": ("train", "val"), "validate": ("val",), "test": ("test",)}
SCENES = SceneConfig(size=96)
ONE_SIZE = DetectionTransform()


class _ObjectData(LightningDataModule):
    """Loaders over `DetectionSamples`; subclasses fill `samples` in `setup`."""

    def __init__(self, batch_size: int, eval_batch_size: int | None, num_workers: int, masks: bool, seed: int) -> None:
        super().__init__()
        for name, value in (("batch_size", batch_size), ("eval_batch_size", eval_batch_size)):
            if value is not None and value < 1:
                raise InputError(f"{name} must be at least 1, got {value}.")
        if num_workers < 0:
            raise InputError(f"num_workers must be 0 or more, got {num_workers}.")
        self.batch_size = batch_size
        self.eval_batch_size = batch_size if eval_batch_size is None else eval_batch_size
        self.num_workers, self.masks, self.seed = num_workers, masks, seed
        self.num_classes: int = 0
        self.class_names: list[str] | None = None
        self.category_ids: list[int] | None = None
        self.samples: dict[Split, DetectionSamples] = {}

    def train_dataloader(self) -> Any:
        samples = self.samples["train"]
        return train_loader(
            samples,
            len(samples),
            self.batch_size,
            seed=self.seed,
            **training_of(self),
            num_workers=self.num_workers,
            collate=collate_objects,
        )

    def val_dataloader(self) -> DataLoader[Any]:
        return self._eval_loader("val")

    def test_dataloader(self) -> DataLoader[Any]:
        return self._eval_loader("test")

    def _eval_loader(self, split: Split) -> DataLoader[Any]:
        samples = self.samples[split]
        return eval_loader(
            samples, len(samples), self.eval_batch_size, num_workers=self.num_workers, collate=collate_objects
        )


class CocoData(_ObjectData):
    """COCO, or images with a JSON like COCO's.

    Args:
        root: the folder that all other paths start from.
        train_images, val_images, test_images: folders of images; those of testing are validation's if left out.
        train_annotations, val_annotations, test_annotations: their JSONs.
        masks: read outlines too; without them, boxes alone.
        keep_empty: train on images without objects too. They are always among those that are judged.
        empty_boxes: what becomes of boxes without area: an `error`, or `drop` them from training.
        transforms: what happens to images of training.
        batch_size: images a batch in one process.
        eval_batch_size: the same where nothing is trained; None: `batch_size`.
        num_workers: processes that load, for each process that trains.
        seed: of order and augmentation.
    """

    def __init__(
        self,
        root: str = "data/coco",
        train_images: str = "train2017",
        train_annotations: str = "annotations/instances_train2017.json",
        val_images: str = "val2017",
        val_annotations: str = "annotations/instances_val2017.json",
        test_images: str | None = None,
        test_annotations: str | None = None,
        masks: bool = True,
        keep_empty: bool = False,
        empty_boxes: EmptyBoxes = "error",
        transforms: DetectionTransform = ONE_SIZE,
        batch_size: int = 2,
        eval_batch_size: int | None = None,
        num_workers: int = 4,
        seed: int = 0,
    ) -> None:
        super().__init__(batch_size, eval_batch_size, num_workers, masks, seed)
        if (test_images is None) != (test_annotations is None):
            raise InputError("test_images and test_annotations go together: give both or neither.")
        self.root = Path(root)
        self.places: dict[Split, tuple[str, str]] = {
            "train": (train_images, train_annotations),
            "val": (val_images, val_annotations),
            "test": (test_images or val_images, test_annotations or val_annotations),
        }
        self.keep_empty, self.empty_boxes, self.transforms = keep_empty, empty_boxes, transforms

    def setup(self, stage: str | None = None) -> None:
        if not self.root.is_dir():
            raise FileNotFoundError(f"There is no folder {os.fspath(self.root)!r}: set data.root.")
        categories = None
        for split in SPLITS.get(stage, ("train", "val", "test")):
            if split in self.samples:
                continue
            images, annotations = (self.root / place for place in self.places[split])
            if split != "train" and categories is None:
                categories = self._categories_of_training()
            files = open_coco(
                images, annotations, masks=self.masks, empty_boxes=self.empty_boxes, categories=categories
            )
            categories = files.categories
            kept = files.with_objects() if split == "train" and not self.keep_empty else None
            if kept is not None and not len(kept):
                raise InputError(f"{files.path} has no objects to train on.")
            self.samples[split] = DetectionSamples(
                CocoSource(files), self.transforms.build(), masks=self.masks, indices=kept, seed=self.seed
            )
            self.num_classes, self.class_names = len(files.categories), files.class_names
            self.category_ids = files.category_ids

    def _categories_of_training(self) -> dict[int, str] | None:
        """Labels are numbered as they were for training, where its JSON is there to tell."""
        annotations = self.root / self.places["train"][1]
        return read_categories(annotations) if annotations.is_file() else None


class DetectionScenes(_ObjectData):
    """Procedural scenes with exact boxes and masks: the data set that needs no file.

    Args:
        scenes: what they look like.
        train_count, val_count, test_count: how many scenes of each split.
        batch_size: scenes a batch in one process.
        eval_batch_size: the same where nothing is trained; None: `batch_size`.
        masks: give masks too.
        cache: keep scenes once they are drawn.
        flip: mirror scenes of training, left-right and up-down.
        seed: of order and augmentation; what the scenes show has its own in `scenes`.
        num_workers: processes that load.
    """

    def __init__(
        self,
        scenes: SceneConfig = SCENES,
        train_count: int = 3000,
        val_count: int = 300,
        test_count: int = 1000,
        batch_size: int = 16,
        eval_batch_size: int | None = None,
        masks: bool = True,
        cache: bool = True,
        flip: bool = True,
        seed: int = 0,
        num_workers: int = 0,
    ) -> None:
        super().__init__(batch_size, eval_batch_size, num_workers, masks, seed)
        self.scenes, self.cache = scenes, cache
        self.counts: dict[Split, int] = {"train": train_count, "val": val_count, "test": test_count}
        self.flip = flip
        self.num_classes = scenes.num_classes
        self.class_names = list(scenes.class_names)
        self.category_ids = list(range(1, scenes.num_classes + 1))

    def setup(self, stage: str | None = None) -> None:
        for split in SPLITS.get(stage, ("train", "val", "test")):
            if split not in self.samples:
                scenes = SceneDataset(self.scenes, split, self.counts[split], target="instances", cache=self.cache)
                source: ObjectSource = SceneSource(scenes)
                mirrored = flips(*(0.5, 0.5) if self.flip else (0.0, 0.0))
                self.samples[split] = DetectionSamples(source, mirrored, masks=self.masks, seed=self.seed)
