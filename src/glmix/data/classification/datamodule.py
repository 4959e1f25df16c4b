"""Lightning data modules for image classification and token labelling.

After `setup` each has `num_classes`, `class_names` (None if the data have no names) and the preprocessing parameters
`input_size`, `mean`, `std` and `crop_pct`. `multi_label` is true if an image may have several labels. Images without
labels have `labelled` false, the number of classes and `multi_label` None, and the target 0.

A training batch is (images, targets), or (images, targets, dense) for token labelling: images (B, C, H, W) float,
normalised; targets (B,) int64, or (B, K) float with `multi_label`; dense (B, G, G, K) float, the share of each class in
each cell of a G x G grid over the image. With `soft_targets`, targets are scores (B, K) float with a sum of 1.
`batch_size` is per process.
"""

import functools
import hashlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from torch.utils.data import DataLoader

from ...errors import InputError
from ...files import write_atomically
from ..core.datamodule import DataModule, already_collated
from ..scenes import SceneConfig, Split
from ..scenes.datamodule import SceneData
from ..scenes.tensors import SceneTensors
from .opened import OpenSplit
from .source import ImageSource, TokenLabelConfig
from .transforms import TransformConfig

__all__ = ["ImageData", "ScenesData"]

ONE_OBJECT = SceneConfig(objects=(1, 1))
PUBLISHED = TransformConfig()
SPLIT_FILE = "split.csv"  # the random split of a run, in its folder


class ScenesData(SceneData):
    """Data module of procedural scenes, which are drawn once and kept in memory. It needs no files.

    The target is the class for scenes of one object. For scenes of several objects, or with `multi_label`, it is the
    vector of present classes.

    Args:
        scenes: configuration of the scenes.
        train_count: number of training scenes.
        val_count: number of validation scenes.
        test_count: number of test scenes.
        batch_size: training scenes per batch and process.
        multi_label: use vectors (K,) of the present classes as targets; None uses them if a scene may have several
            objects.
        token_labels: add dense labels, computed from the exact masks, to training batches.
        token_grid: cells per side of the dense labels.
        augment: rotate and flip training scenes randomly, with all eight combinations equally likely.
        mean: mean of each channel, for values from 0 to 1.
        std: standard deviation of each channel, for values from 0 to 1.
        kwargs: arguments of `SceneData` and `DataModule`. `seed` sets the sample order and the augmentation;
            `scenes` has the seed of the scenes.
    """

    collate = staticmethod(already_collated)

    def __init__(
        self,
        scenes: SceneConfig = ONE_OBJECT,
        train_count: int = 3000,
        val_count: int = 1000,
        test_count: int = 1000,
        batch_size: int = 64,
        multi_label: bool | None = None,
        token_labels: bool = False,
        token_grid: int = 7,
        augment: bool = True,
        mean: tuple[float, float, float] = IMAGENET_DEFAULT_MEAN,
        std: tuple[float, float, float] = IMAGENET_DEFAULT_STD,
        **kwargs: Any,
    ) -> None:
        super().__init__(scenes, train_count, val_count, test_count, batch_size=batch_size, **kwargs)
        multi_label = not scenes.single if multi_label is None else multi_label
        if not multi_label and not scenes.single:
            raise InputError(
                f"Scenes of {scenes.objects[0]} to {scenes.objects[1]} objects may have several classes: leave "
                "multi_label out, set it to true, or set scenes.objects to [1, 1]."
            )
        self.multi_label = multi_label
        self.token_grid = token_grid if token_labels else None
        self.augment = augment
        self.mean, self.std, self.crop_pct = mean, std, 1.0
        self.input_size: tuple[int, int, int] = (3, scenes.size, scenes.size)

    def open_split(self, split: Split) -> SceneTensors:
        return SceneTensors(
            self.scenes,
            split,
            self.counts[split],
            "labels" if self.multi_label else "label",
            mean=self.mean,
            std=self.std,
            seed=self.seed,
            augment=self.augment,
            grid=self.token_grid if split == "train" else None,
        )


class ImageData(DataModule):
    """Data module of local or streamed images, read by timm, with the augmentation of the published recipes.

    Args:
        source: location and format of the images.
        transforms: augmentation and preprocessing.
        batch_size: training images per batch and process.
        num_workers: worker processes of each loader, per training process.
        token_labels: configuration of dense labels for training batches; None for no dense labels.
        balanced: draw images of all classes equally often in training. Images of several classes count for the rarest.
        kwargs: arguments of `DataModule`.
    """

    def __init__(
        self,
        source: ImageSource,
        transforms: TransformConfig = PUBLISHED,
        batch_size: int = 128,
        num_workers: int = 8,
        token_labels: TokenLabelConfig | None = None,
        balanced: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(batch_size=batch_size, num_workers=num_workers, **kwargs)
        if source.streams and self.repeats > 1:
            raise InputError(
                f"repeats={self.repeats} needs random access, but source.reader {source.reader!r} streams its data."
            )
        if source.streams and token_labels is not None:
            raise InputError(f"token_labels need file names, but source.reader {source.reader!r} has none.")
        if token_labels is not None and not source.labelled:
            raise InputError("token_labels need labelled images, but source.reader 'images' reads no labels.")
        channels = 3 if source.channels is None else source.channels
        if transforms.mean is not None and len(transforms.mean) != channels:
            raise InputError(
                f"transforms.mean has {len(transforms.mean)} values, but the images have {channels} channels "
                "(source.channels): give one value per channel, or null."
            )
        if token_labels is not None and (source.channels is not None or source.targets != "class"):
            raise InputError("token_labels need RGB images with one label: leave out source.channels and source.list.")
        if balanced and source.streams:
            raise InputError(f"balanced needs random access, but source.reader {source.reader!r} streams its data.")
        if balanced and not source.labelled:
            raise InputError("balanced needs labelled images, but source.reader 'images' reads no labels.")
        self.source, self.transforms, self.token_labels = source, transforms, token_labels
        self.balanced = balanced
        self.input_size: tuple[int, int, int] = (channels, transforms.size, transforms.size)
        self.mean, self.std = transforms.statistics()
        self.crop_pct = transforms.crop
        self.labelled = source.labelled
        self.multi_label = source.targets == "classes" if source.labelled else None
        self.soft_targets = source.targets == "scores"
        if not source.labelled:
            self.num_classes = None

    def setup(self, stage: str | None = None) -> None:
        super().setup(stage)
        channels, transforms = self.source.channels, self.transforms
        if channels not in (None, 3) and transforms.mean is None:
            train = self.splits["train"] if "train" in self.splits else self.open_split("train")
            self.transforms = train.measure(transforms)
            self.mean, self.std = self.transforms.statistics()

    @functools.cached_property
    def _split_table(self) -> str:
        return self.source.split_table()

    def state_dict(self) -> dict[str, Any]:
        """Return a hash of the random split, which checkpoints contain."""
        if self.source.split is None:
            return {}
        return {"split": hashlib.sha256(self._split_table.encode()).hexdigest()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Check the hash of the random split when a run is continued or evaluated.

        Raises:
            InputError: if the split has changed, because training images might now be validation images.
        """
        if self.source.split is not None and state_dict.get("split") != self.state_dict()["split"]:
            raise InputError(
                "The random split differs from that of the checkpoint, because images or options of source.split have "
                f"changed. To keep it, use {SPLIT_FILE} in the run folder: set source.reader to list, source.list.file "
                "to that file, source.list.split to split and source.split to null. Otherwise start a new run in "
                "another trainer.default_root_dir."
            )

    @property
    def class_counts(self) -> NDArray[np.float64]:
        """Number of training images of each class (K,), or the sum of its scores.

        Raises:
            InputError: if the number is unknown before all data are read.
        """
        targets = self.splits["train"].targets
        if targets.ndim == 1:
            return np.bincount(targets, minlength=self.num_classes or 0).astype(np.float64)
        return targets.sum(0, dtype=np.float64)

    def open_split(self, split: Split) -> Any:
        classes = self.splits["train"].classes if "train" in self.splits else None
        opened: OpenSplit = self.source.open(split, self.num_workers, self.seed, classes)
        if split == "train" and self.token_labels is not None:
            opened.add_labels(self.token_labels)
        if self.labelled:
            self.num_classes, self.class_names = opened.num_classes, opened.class_names
        return opened

    def train_dataloader(self) -> Any:
        if self.source.split is not None and self.trainer is not None and self.trainer.is_global_zero:
            write_atomically(Path(self.trainer.default_root_dir) / SPLIT_FILE, self._split_table)
        return self.splits["train"].train_loader(
            self.transforms,
            self.batch_size,
            seed=self.seed,
            repeats=self.repeats,
            **self.resume_position(),
            num_workers=self.num_workers,
            balanced=self.balanced,
        )

    def eval_dataloader(self, split: Split) -> DataLoader[Any]:
        loader: DataLoader[Any] = self.splits[split].eval_loader(
            self.transforms, self.eval_batch_size, self.num_workers
        )
        return loader
