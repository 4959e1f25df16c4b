"""Image files with their targets: the reader of folders and lists."""

import csv
import io
import os
from collections.abc import Mapping, Sequence
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray
from timm.data.readers.reader import Reader

from ...errors import InputError
from ..core.partition import SplitConfig, partition

__all__ = ["FileReader", "Targets", "check_trained", "main_classes"]

Targets = NDArray[Any]  # (N,) int64: one class; (N, K) float32: a 0 or 1, or a score, per class


def main_classes(targets: Targets) -> NDArray[np.int64]:
    """Return one class of each image (N,): of several classes the rarest one, or the one with the highest score.

    An image without any class gets the class K, one more than the last.
    """
    if targets.ndim == 1:
        return targets.astype(np.int64)
    present = targets == 1
    if not (present | (targets == 0)).all():
        return targets.argmax(1)
    rarity = present * (1 + len(targets) - present.sum(0))  # at least 1 for present classes
    classes: NDArray[np.int64] = rarity.argmax(1)
    return np.where(present.any(1), classes, targets.shape[1])


class FileReader(Reader):  # type: ignore[misc]
    """Reader of timm for image files whose paths and targets are in memory.

    Args:
        root: folder that relative paths start at.
        files: path of each image.
        targets: class (N,), or a value per class (N, K).
        class_to_idx: number of each class.
        groups: group of each image for a random split; None if there are none.
    """

    def __init__(
        self,
        root: str | os.PathLike[str],
        files: Sequence[str],
        targets: Targets,
        class_to_idx: Mapping[str, int],
        groups: Sequence[Any] | None = None,
    ) -> None:
        super().__init__()
        self.root = os.fspath(root)
        self.files, self.targets, self.class_to_idx, self.groups = list(files), targets, dict(class_to_idx), groups

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> tuple[BinaryIO, Any]:
        return open(os.path.join(self.root, self.files[index]), "rb"), self.targets[index]

    # timm's private method, because the public filename and filenames call it
    def _filename(self, index: int, basename: bool = False, absolute: bool = False) -> str:
        name = self.files[index]
        return os.path.basename(name) if basename else os.path.join(self.root, name) if absolute else name

    def select(self, indices: NDArray[np.int64]) -> "FileReader":
        """Return a reader of some of the images."""
        files = [self.files[index] for index in indices]
        return FileReader(self.root, files, self.targets[indices], self.class_to_idx)

    def splits(self, config: SplitConfig) -> NDArray[np.str_]:
        """Return the split of each image (N,) in a random split; see `partition`."""
        if config.group is not None and self.groups is None:
            raise InputError(f"split.group is {config.group!r}, but only a list has columns: use the reader list.")
        return partition(self.files, main_classes(self.targets), config, self.groups)

    def table(self, splits: NDArray[np.str_], separator: str, *, scores: bool = False) -> str:
        """Return a CSV list of the images, sorted by path, with their labels and splits.

        Args:
            splits: split of each image (N,).
            separator: text between several labels of an image.
            scores: write one column per class with the targets, instead of the column label.
        """
        names = sorted(self.class_to_idx, key=self.class_to_idx.__getitem__)
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(["path", *(names if scores else ["label"]), "split"])
        for index in np.argsort(np.asarray(self.files)):
            target = self.targets[index]
            if scores:
                labels = [f"{value:.6g}" for value in target.tolist()]
            elif target.ndim:
                labels = [separator.join(names[k] for k in np.flatnonzero(target))]
            else:
                labels = [names[target]]
            writer.writerow([self.files[index], *labels, splits[index]])
        return text.getvalue()


def check_trained(targets: Targets, splits: NDArray[np.str_], class_to_idx: Mapping[str, int], source: str) -> None:
    """Raise InputError if a class has validation or test images but no training images.

    Args:
        targets: class (N,), or a value per class (N, K), of each image.
        splits: split of each image (N,).
        class_to_idx: number of each class.
        source: description of the data, for messages.
    """
    shown = np.eye(len(class_to_idx), dtype=bool)[targets] if targets.ndim == 1 else targets > 0
    in_train = shown[splits == "train"].any(0)
    for name, index in class_to_idx.items():
        elsewhere = np.flatnonzero(shown[:, index])
        if len(elsewhere) and not in_train[index]:
            raise InputError(
                f"The class {name!r} has {len(elsewhere)} images in the split {splits[elsewhere[0]]} and none in train "
                f"in {source}: add images to the training data, or choose another split."
            )
