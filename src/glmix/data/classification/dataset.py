"""Images of a reader that gives any one at any time, read, augmented and labelled."""

from collections.abc import Callable, Sequence
from typing import Any

from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset, default_collate

from ...errors import InputError
from ..core.decoding import UNREADABLE, BadImages, decode
from ..core.sampling import Draw, seeded
from .token_labels import TokenLabelTransform

__all__ = ["ImageSamples", "checked_label", "collate_readable"]

ImageTransform = Callable[[Image.Image], Tensor]


def checked_label(label: Any, num_classes: int, name: str) -> int:
    """The label, if it is one of the classes."""
    if not 0 <= int(label) < num_classes:
        raise InputError(
            f"{name} has the label {label}, but with num_classes={num_classes} labels go from 0 to {num_classes - 1}."
        )
    return int(label)


class ImageSamples(Dataset[Any]):
    """Image and label for a draw of training or an index of evaluation; what a draw gives depends on it alone.

    Where a file cannot be read, training takes the next one in its place and evaluation gives None.

    Args:
        reader: one of timm's, with random access.
        transform: what becomes of an image; a `TokenLabelTransform` adds dense labels as a third part.
        num_classes: how many labels there may be.
        bad: counts the files that cannot be read.
        seed: of the augmentation.
        at_least: see `decode`.
    """

    def __init__(
        self,
        reader: Any,
        transform: ImageTransform | TokenLabelTransform,
        num_classes: int,
        bad: BadImages,
        *,
        seed: int = 0,
        at_least: int | None = None,
    ) -> None:
        self.reader, self.transform, self.num_classes, self.bad = reader, transform, num_classes, bad
        self.seed, self.at_least = seed, at_least

    def __len__(self) -> int:
        return len(self.reader)

    def name_of(self, index: int) -> str:
        """What messages call the image."""
        return self.reader.filename(index, absolute=True) or f"Image {index}"

    def __getitem__(self, place: int | Draw) -> Any:
        if not isinstance(place, Draw):
            return self._read(place)
        for step in range(len(self)):
            # 2: another stream than those of the order and of the scenes
            with seeded(self.seed, place.epoch, place.position, 2):
                sample = self._read((place.sample + step) % len(self))
            if sample is not None:
                return sample
        raise InputError("Not one of the images can be read.")

    def _read(self, index: int) -> Any:
        try:
            file, label = self.reader[index][:2]
            image = decode(file, self.at_least)
        except UNREADABLE as error:
            self.bad.add(self.name_of(index), error)
            return None
        label = checked_label(label, self.num_classes, self.name_of(index))
        if isinstance(self.transform, TokenLabelTransform):
            pixels, dense = self.transform(image, self.transform.labels.load(self.name_of(index)))
            return pixels, label, dense
        return self.transform(image), label


def collate_readable(samples: Sequence[Any]) -> Any:
    """A batch of the samples that could be read."""
    readable = [sample for sample in samples if sample is not None]
    if not readable:
        raise InputError(f"None of the {len(samples)} images of a batch can be read.")
    return tuple(default_collate(readable))
