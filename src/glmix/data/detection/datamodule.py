"""Data modules of detection and instance segmentation: COCO, a COCO-style JSON of one's own, and scenes.

A batch is (images, targets), two lists; see `DetectionSamples`. Images come as they are stored, uint8; whoever
detects normalises them. Training resizes them here, with their boxes and masks; evaluation leaves that to the
detector, which answers in pixels of the image that it was given. `batch_size` is that of one process.
"""

import os
from pathlib import Path

from ...errors import InputError
from ..core.datamodule import DataModule
from ..scenes import SceneConfig, SceneDataset, Split
from .dataset import CocoSource, DetectionSamples, ObjectSource, SceneSource, collate_objects
from .files import EmptyBoxes, open_coco, read_categories
from .transforms import DetectionTransform, flips

__all__ = ["CocoData", "DetectionScenes"]

SCENES = SceneConfig(size=96)
ONE_SIZE = DetectionTransform()


class CocoData(DataModule):
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
        super().__init__(
            batch_size,
            batch_size if eval_batch_size is None else eval_batch_size,
            num_workers,
            seed,
            collate=collate_objects,
        )
        if (test_images is None) != (test_annotations is None):
            raise InputError("test_images and test_annotations go together: give both or neither.")
        self.root = Path(root)
        self.places: dict[Split, tuple[str, str]] = {
            "train": (train_images, train_annotations),
            "val": (val_images, val_annotations),
            "test": (test_images or val_images, test_annotations or val_annotations),
        }
        self.masks, self.keep_empty, self.empty_boxes, self.transforms = masks, keep_empty, empty_boxes, transforms
        self.category_ids: list[int] | None = None

    def setup(self, stage: str | None = None) -> None:
        if not self.root.is_dir():
            raise FileNotFoundError(f"There is no folder {os.fspath(self.root)!r}: set data.root.")
        super().setup(stage)

    def open_split(self, split: Split) -> DetectionSamples:
        images, annotations = (self.root / place for place in self.places[split])
        files = open_coco(
            images,
            annotations,
            masks=self.masks,
            empty_boxes=self.empty_boxes,
            categories=None if split == "train" else self._categories_of_training(),
        )
        kept = files.with_objects() if split == "train" and not self.keep_empty else None
        if kept is not None and not len(kept):
            raise InputError(f"{files.path} has no objects to train on.")
        self.num_classes, self.class_names = len(files.categories), files.class_names
        self.category_ids = files.category_ids
        return DetectionSamples(
            CocoSource(files), self.transforms.build(), masks=self.masks, indices=kept, seed=self.seed
        )

    def _categories_of_training(self) -> dict[int, str] | None:
        """Return the categories of the training JSON, which number the labels, if it is there."""
        if "train" in self.splits:
            categories: dict[int, str] = self.splits["train"].source.files.categories
            return categories
        annotations = self.root / self.places["train"][1]
        return read_categories(annotations) if annotations.is_file() else None


class DetectionScenes(DataModule):
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
        super().__init__(
            batch_size,
            batch_size if eval_batch_size is None else eval_batch_size,
            num_workers,
            seed,
            collate=collate_objects,
        )
        self.scenes, self.masks, self.cache = scenes, masks, cache
        self.counts: dict[Split, int] = {"train": train_count, "val": val_count, "test": test_count}
        self.flip = flip
        self.num_classes = scenes.num_classes
        self.class_names = list(scenes.class_names)
        self.category_ids: list[int] | None = list(range(1, scenes.num_classes + 1))

    def open_split(self, split: Split) -> DetectionSamples:
        scenes = SceneDataset(self.scenes, split, self.counts[split], target="instances", cache=self.cache)
        source: ObjectSource = SceneSource(scenes)
        mirrored = flips(*(0.5, 0.5) if self.flip else (0.0, 0.0))
        return DetectionSamples(source, mirrored, masks=self.masks, seed=self.seed)
