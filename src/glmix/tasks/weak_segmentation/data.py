"""Data sets of weakly supervised segmentation: images with image labels, and images with pseudo masks."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset
from torchvision.transforms.v2 import functional as V

from ...data.core.datamodule import DataModule
from ...data.core.sampling import Draw, seeded
from ...data.scenes import Split
from ...data.segmentation.datamodule import MaskData, MaskSource
from ...data.segmentation.dataset import MaskSamples
from ...data.segmentation.files import MaskFiles
from ...data.segmentation.transforms import MaskTransformConfig
from ...errors import InputError
from .labels import ImagesWithLabels

__all__ = ["LabelData", "PseudoMaskData", "label_vectors", "last_files", "with_masks"]


def label_vectors(files: ImagesWithLabels, indices: Sequence[int]) -> Tensor:
    """Return multi-hot image labels (n, K) without the background: 1 for each class in an image, otherwise 0."""
    found = torch.zeros(len(indices), files.num_classes - 1)
    for row, index in zip(found, indices, strict=True):
        row[[label - 1 for label in files.labels(index)]] = 1
    return found


class _LabelSamples(Dataset[tuple[Tensor, Tensor]]):
    """Images (C, H, W) with multi-hot labels (K,). Augmentation is seeded by (seed, epoch, position)."""

    def __init__(
        self, files: ImagesWithLabels, indices: Sequence[int], config: MaskTransformConfig, turns: bool, seed: int
    ) -> None:
        self.files, self.indices, self.turns, self.seed = files, list(indices), turns, seed
        self.labels = label_vectors(files, self.indices)
        self.size = config.crop
        self.augmented, self.plain = dataclasses.replace(config, category_max_ratio=1.0).train(), config.eval()

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, place: int | Draw) -> tuple[Tensor, Tensor]:
        sample = place.sample if isinstance(place, Draw) else place
        image = self.files.image(self.indices[sample])
        no_mask = np.zeros((image.height, image.width), np.uint8)
        if not isinstance(place, Draw):
            x, _ = self.plain(image, no_mask)
            return V.resize(x, [self.size, self.size], antialias=True), self.labels[sample]
        # stream 2 is independent of the random streams for the sample order and for the scenes
        with seeded(self.seed, place.epoch, place.position, 2):
            x, _ = self.augmented(image, no_mask)
            if self.turns:
                x = torch.rot90(x, int(torch.randint(4, ())), (1, 2))
        return x, self.labels[sample]


class LabelData(DataModule):
    """Data module of training images with image labels, without the background. The last images are held out.

    `setup` sets the same attributes as in the other data modules.

    Args:
        files: images with their labels.
        held_out: number of images at the end of the split that are used for validation instead of training.
        transforms: resizing and augmentation.
        turns: also rotate training images by multiples of 90 degrees.
        batch_size: batch size per process.
        num_workers: number of worker processes.
        seed: seed of the sample order and of the augmentation.
    """

    def __init__(
        self,
        files: ImagesWithLabels,
        held_out: int,
        transforms: MaskTransformConfig,
        turns: bool = False,
        batch_size: int = 16,
        num_workers: int = 0,
        seed: int = 0,
    ) -> None:
        super().__init__(batch_size, batch_size, num_workers, seed)
        self.files, self.held_out, self.transforms, self.turns = files, held_out, transforms, turns
        self.input_size: tuple[int, int, int] = (3, transforms.crop, transforms.crop)
        self.multi_label = True
        self.mean, self.std = transforms.mean, transforms.std

    def setup(self, stage: str | None = None) -> None:
        if self.splits:
            return
        files = self.files
        first = len(files) - self.held_out
        if first < self.batch_size:
            raise InputError(
                f"There are {len(files)} training images, and data.held_out reserves {self.held_out} of them: too few "
                f"remain for a batch of classifier.batch_size {self.batch_size}. Lower one of the two, or add images."
            )
        self.num_classes, self.class_names = files.num_classes - 1, list(files.class_names[1:])
        self.splits["train"] = _LabelSamples(files, range(first), self.transforms, self.turns, self.seed)
        self.splits["val"] = _LabelSamples(files, range(first, len(files)), self.transforms, False, self.seed)


def with_masks(files: ImagesWithLabels, folder: Path) -> MaskFiles:
    """Pair images with the masks of the same names in a folder.

    Raises:
        FileNotFoundError: a mask is missing.
    """
    masks = tuple(folder / f"{name}.png" for name in files.names)
    missing = [mask for mask in masks if not mask.is_file()]
    if missing:
        raise FileNotFoundError(
            f"{len(missing)} of {len(masks)} pseudo masks are missing, such as {missing[0]}: run `glmix weakseg seeds`."
        )
    return MaskFiles(files.names, files.images, masks, files.class_names, True, {}, {})


def last_files(files: MaskFiles, count: int) -> MaskFiles:
    """Return the last `count` files."""
    return dataclasses.replace(
        files, names=files.names[-count:], images=files.images[-count:], masks=files.masks[-count:]
    )


class PseudoMaskData(MaskData):
    """Data module of images with masks that are already open, such as pseudo masks.

    Args:
        train, val: images with masks for training and for validation.
        kwargs: arguments of `MaskData` except `source`.
    """

    def __init__(self, train: MaskFiles, val: MaskFiles, **kwargs: Any) -> None:
        super().__init__(MaskSource(root=str(train.masks[0].parent), layout="folder"), **kwargs)
        self.files = {"train": train, "val": val}

    def open_split(self, split: Split) -> MaskSamples:
        return self.samples_of(self.files[split], split)
