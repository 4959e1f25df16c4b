"""Data modules for detection and instance segmentation: COCO, custom data with a COCO-style JSON, and scenes.

A batch is (images, targets), two lists; see `DetectionSamples`. Images are uint8, and the detector normalises them.
Training images are resized here, together with their boxes and masks. In evaluation the detector resizes images, and
its predictions are in pixels of the original image. `batch_size` is per process.
"""

import os
from pathlib import Path
from typing import Any

from ...errors import InputError
from ..core.datamodule import DataModule
from ..scenes import SceneConfig, SceneDataset, Split
from ..scenes.datamodule import SceneData
from .dataset import CocoSource, DetectionSamples, ObjectSource, SceneSource, collate_objects
from .files import EmptyBoxes, open_coco, read_categories
from .transforms import DetectionTransform, flips

__all__ = ["CocoData", "DetectionScenes"]

DEFAULT_SCENES = SceneConfig(size=96)
DEFAULT_TRANSFORMS = DetectionTransform()


class CocoData(DataModule):
    """Data module of COCO, or of custom data with a COCO-style JSON.

    Args:
        root: the folder that all other paths are relative to.
        train_images, val_images, test_images: image folders; testing uses the validation images by default.
        train_annotations, val_annotations, test_annotations: annotation files (COCO JSON).
        masks: load instance masks as well as boxes.
        keep_empty: also train on images without objects. Evaluation always includes them.
        empty_boxes: handling of boxes without area: raise an `error`, or `drop` them from training.
        transforms: resizing and augmentation of training images.
        batch_size: training images per batch and process.
        kwargs: arguments of `DataModule`.
    """

    collate = staticmethod(collate_objects)

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
        transforms: DetectionTransform = DEFAULT_TRANSFORMS,
        batch_size: int = 2,
        **kwargs: Any,
    ) -> None:
        super().__init__(batch_size, **kwargs)
        if (test_images is None) != (test_annotations is None):
            raise InputError("test_images and test_annotations must be set together, or both be null.")
        self.root = Path(root)
        self.paths: dict[Split, tuple[str, str]] = {
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
        images, annotations = (self.root / path for path in self.paths[split])
        files = open_coco(
            images,
            annotations,
            masks=self.masks,
            empty_boxes=self.empty_boxes,
            categories=None if split == "train" else self._training_categories(),
        )
        indices = files.with_objects() if split == "train" and not self.keep_empty else None
        if indices is not None and not len(indices):
            raise InputError(f"{files.path} has no objects to train on.")
        self.num_classes, self.class_names = len(files.categories), files.class_names
        self.category_ids = files.category_ids
        return DetectionSamples(
            CocoSource(files), self.transforms.build(), masks=self.masks, indices=indices, seed=self.seed
        )

    def _training_categories(self) -> dict[int, str] | None:
        """Return {id: name} of the training JSON, which defines the labels, or None if there is no such file."""
        if "train" in self.splits:
            categories: dict[int, str] = self.splits["train"].source.files.categories
            return categories
        annotations = self.root / self.paths["train"][1]
        return read_categories(annotations) if annotations.is_file() else None


class DetectionScenes(SceneData):
    """Data module of procedural scenes with exact boxes and masks, which needs no files.

    Args:
        scenes: configuration of the scenes.
        train_count, val_count, test_count: number of scenes per split.
        batch_size: training scenes per batch and process.
        masks: include instance masks in the targets.
        cache: keep generated scenes in memory.
        flip: flip training scenes horizontally and vertically, each with probability 0.5.
        kwargs: arguments of `SceneData` and `DataModule`. `seed` sets the sample order and the augmentation;
            `scenes` has the seed of the scenes.
    """

    collate = staticmethod(collate_objects)

    def __init__(
        self,
        scenes: SceneConfig = DEFAULT_SCENES,
        train_count: int = 3000,
        val_count: int = 300,
        test_count: int = 1000,
        batch_size: int = 16,
        masks: bool = True,
        cache: bool = True,
        flip: bool = True,
        **kwargs: Any,
    ) -> None:
        super().__init__(scenes, train_count, val_count, test_count, batch_size=batch_size, **kwargs)
        self.masks, self.cache, self.flip = masks, cache, flip
        self.category_ids: list[int] | None = list(range(1, scenes.num_classes + 1))

    def open_split(self, split: Split) -> DetectionSamples:
        scenes = SceneDataset(self.scenes, split, self.counts[split], target="instances", cache=self.cache)
        source: ObjectSource = SceneSource(scenes)
        transform = flips(*(0.5, 0.5) if self.flip else (0.0, 0.0))
        return DetectionSamples(source, transform, masks=self.masks, seed=self.seed)
