"""Data of weak segmentation: images with the classes that they show, and images with pseudo masks to learn."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset
from torchvision.transforms.v2 import functional as V

from ...data.data_module import DataModule
from ...data.masks.files import MaskFiles
from ...data.masks.modules import MaskData, MaskSource
from ...data.masks.samples import MaskSamples
from ...data.masks.transforms import MaskTransformConfig
from ...data.sampling import Draw, seeded
from ...data.scenes import Split
from ...errors import InputError

__all__ = ["LabelData", "PseudoMaskData", "label_vectors"]


def label_vectors(files: MaskFiles, indices: Sequence[int]) -> Tensor:
    """(n, K): 1 for each class that an image shows, as its description or else its mask says. K is without class 0."""
    found = torch.zeros(len(indices), files.num_classes - 1)
    for row, index in zip(found, indices, strict=True):
        row[[label - 1 for label in files.labels(index)]] = 1
    return found


class _LabelSamples(Dataset[tuple[Tensor, Tensor]]):
    """An image and its labels. Draws of training are augmented by (seed, epoch, position)."""

    def __init__(
        self, files: MaskFiles, indices: Sequence[int], config: MaskTransformConfig, turns: bool, seed: int
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
        # 2: another stream than those of the order and of the scenes
        with seeded(self.seed, place.epoch, place.position, 2):
            x, _ = self.augmented(image, no_mask)
            if self.turns:
                x = torch.rot90(x, int(torch.randint(4, ())), (1, 2))
        return x, self.labels[sample]


class LabelData(DataModule):
    """Images of one split with the classes that they show, of which the last ones are held out. Class 0, the
    background, is none of them. After `setup` it tells what the other data modules tell.

    Args:
        source: where the images are; masks are looked at only where nothing else says what an image shows.
        held_out: how many images at the end of the split are not trained on but validated on.
        transforms: what happens to the images.
        turns: turn images of training by quarters of a circle too.
        batch_size: images a batch in one process.
        num_workers: processes that load.
        seed: of order and augmentation.
    """

    def __init__(
        self,
        source: MaskSource,
        held_out: int,
        transforms: MaskTransformConfig,
        turns: bool = False,
        batch_size: int = 16,
        num_workers: int = 0,
        seed: int = 0,
    ) -> None:
        super().__init__(batch_size, batch_size, num_workers, seed)
        self.source, self.held_out, self.transforms, self.turns = source, held_out, transforms, turns
        self.input_size: tuple[int, int, int] = (3, transforms.crop, transforms.crop)
        self.multi_label = True
        self.mean, self.std = transforms.mean, transforms.std

    def setup(self, stage: str | None = None) -> None:
        if self.splits:
            return
        files = self.source.open("train")
        first = len(files) - self.held_out
        if first < self.batch_size:
            raise InputError(
                f"The split {self.source.train} has {len(files)} images, of which {self.held_out} are held out: too "
                f"few for a batch of {self.batch_size}."
            )
        self.num_classes, self.class_names = files.num_classes - 1, list(files.class_names[1:])
        self.splits["train"] = _LabelSamples(files, range(first), self.transforms, self.turns, self.seed)
        self.splits["val"] = _LabelSamples(files, range(first, len(files)), self.transforms, False, self.seed)


class PseudoMaskData(MaskData):
    """Images with masks, where those of training are others than those of evaluation.

    Args:
        pseudo: the folder of the masks of training.
        kwargs: arguments of `MaskData`.
    """

    def __init__(self, pseudo: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.pseudo = pseudo

    def open_split(self, split: Split) -> MaskSamples:
        source = dataclasses.replace(self.source, masks=self.pseudo) if split == "train" else self.source
        return self.samples_of(source.open(split), split)
