"""Map-style data set over a timm reader with random access."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, default_collate

from ...errors import InputError
from ..core.decoding import UNREADABLE, BadImages
from ..core.sampling import Draw, seeded
from .token_labels import TokenLabelTransform

__all__ = ["ImageSamples", "checked_label", "collate_readable"]

ImageTransform = Callable[[Any], Tensor]


def checked_label(label: Any, num_classes: int, name: str) -> int:
    """Return the label as an int. Raise InputError if it is not in [0, num_classes)."""
    if not 0 <= int(label) < num_classes:
        raise InputError(
            f"{name} has the label {label}, but num_classes is {num_classes}: expected 0 to {num_classes - 1}."
        )
    return int(label)


class ImageSamples(Dataset[Any]):
    """Data set of (image, label) pairs, indexed with a `Draw` in training and with an integer in evaluation.

    The label is the number of a class, or a value for each class (K,) if the reader has them. A training sample depends
    only on its draw. If a file cannot be read, training uses the next readable file and evaluation returns None.

    Args:
        reader: reader of timm with random access.
        decode: function that decodes a file, which it closes.
        transform: transform of the decoded image; a `TokenLabelTransform` adds dense labels as the third element of a
            sample.
        num_classes: number of classes.
        bad: counter of unreadable files.
        seed: seed of the augmentation.
    """

    def __init__(
        self,
        reader: Any,
        decode: Callable[[Any], Any],
        transform: ImageTransform | TokenLabelTransform,
        num_classes: int,
        bad: BadImages,
        *,
        seed: int = 0,
    ) -> None:
        self.reader, self.decode, self.transform = reader, decode, transform
        self.num_classes, self.bad, self.seed = num_classes, bad, seed

    def __len__(self) -> int:
        return len(self.reader)

    def name_of(self, index: int) -> str:
        """Return the file name of an image for messages, or its number if it has none."""
        return self.reader.filename(index, absolute=True) or f"Image {index}"

    def __getitem__(self, place: int | Draw) -> Any:
        if not isinstance(place, Draw):
            return self._read(place)
        for step in range(len(self)):
            # stream 2 is independent of the random streams for the sample order and for the scenes
            with seeded(self.seed, place.epoch, place.position, 2):
                sample = self._read((place.sample + step) % len(self))
            if sample is not None:
                return sample
        raise InputError("None of the images can be read.")

    def _read(self, index: int) -> Any:
        """Return the sample with this index; None if its file cannot be read."""
        try:
            file, label = self.reader[index][:2]
            image = self.decode(file)
        except UNREADABLE as error:
            self.bad.add(self.name_of(index), error)
            return None
        if isinstance(label, np.ndarray):
            label = torch.from_numpy(label)
        else:
            label = checked_label(label, self.num_classes, self.name_of(index))
        if isinstance(self.transform, TokenLabelTransform):
            pixels, dense = self.transform(image, self.transform.labels.load(self.name_of(index)))
            return pixels, label, dense
        return self.transform(image), label


def collate_readable(samples: Sequence[Any]) -> Any:
    """Collate the samples that are not None into a batch."""
    readable = [sample for sample in samples if sample is not None]
    if not readable:
        raise InputError(f"None of the {len(samples)} images of a batch can be read.")
    return tuple(default_collate(readable))
