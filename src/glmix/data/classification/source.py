"""Image sources: one configuration for all readers, which opens splits."""

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...errors import InputError
from ..core.partition import SplitConfig
from ..core.sampling import process_rank
from ..core.splits import find_split, split_names, split_path
from ..core.tables import TABLE_SUFFIXES
from ..scenes import Split
from .files import FileReader, check_trained
from .lists import ListConfig, TargetKind, open_list, read_class_map
from .opened import OpenSplit
from .readers import ReaderKind, open_folder, open_hfds, open_hfds_streaming, open_images, open_tar, open_wds
from .token_labels import Extent, Scores

__all__ = ["ImageSource", "TokenLabelConfig"]


@dataclass(frozen=True)
class TokenLabelConfig:
    """Configuration of dense labels for training; see `TokenLabels` for the arguments."""

    root: str
    grid: int = 7
    scores: Scores = "probabilities"
    smoothing: float = 0.1
    extent: Extent = "image"


@dataclass(frozen=True)
class ImageSource:
    """Location and format of images.

    Args:
        root: folder of the data; with `hfds` the cache folder.
        reader: `folder`: image files root/SPLIT/CLASS/*, or root/CLASS/* with `split`. `list`: image files with labels
            in lists, see `list`. `images`: image files anywhere in root/SPLIT, without labels, for distillation; the
            split `.` is root itself. `tar`: root/SPLIT.tar with one folder per class, or a folder
            root/SPLIT with one tar file per class. `wds`: WebDataset shards in root. `hfds`: a Hugging Face data set
            with random access. `hfds-streaming`: a Hugging Face data set in streaming mode.
        name: name or folder of the Hugging Face data set.
        train: name of the training split; with `wds` also a pattern of file names. Folders and lists may have a common
            synonym of the name, such as validation for val.
        val: name of the validation split.
        test: name of the test split; None tests on `val`.
        list: lists of images with labels, for the reader `list`.
        split: random split of a folder, or of a list, that is not divided into splits; None if it is.
        num_classes: number of classes that the data must have; None takes it from the data. Required for `wds`, whose
            shards do not contain it.
        class_map: text file with class names in the order of their numbers; None for the alphabetical order.
        train_samples: number of training samples, for streams that do not contain it.
        input_key: key of the image, with `hfds` (None: image) and `wds` (None: the common image suffixes).
        target_key: key of the label, with `hfds` (None: label) and `wds` (a field of the json part;
            None: the cls part).
        shuffle_buffer: size of the shuffle buffer of a stream; None for the default of timm.
        max_bad_images: number of unreadable files that are skipped before training stops with an error.
        channels: number of channels of images that are TIFF, `.npy` or 16-bit files, see `decode_array`; None for RGB
            images with 8 bits per channel, to which other images are converted.
        draft: decode training JPEGs at 1/2, 1/4 or 1/8 of their size if even the smallest crop keeps the resolution of
            the network input. This is faster for photographs of many megapixels; the pixels differ slightly.
        upright: apply the EXIF orientation. The published models were trained and evaluated without it,
            as timm does.
    """

    root: str | None = None
    reader: ReaderKind = "folder"
    name: str | None = None
    train: str = "train"
    val: str = "val"
    test: str | None = None
    list: ListConfig | None = None
    split: SplitConfig | None = None
    num_classes: int | None = None
    class_map: str | None = None
    train_samples: int | None = None
    input_key: str | None = None
    target_key: str | None = None
    shuffle_buffer: int | None = None
    max_bad_images: int = 10
    channels: int | None = None
    draft: bool = False
    upright: bool = True

    def __post_init__(self) -> None:
        if self.reader.startswith("hfds"):
            if self.name is None:
                raise InputError(f"source.reader {self.reader!r} needs source.name, the name of a data set.")
        elif self.reader == "list":
            if self.root is None and (self.list is None or self.list.file is None):
                raise InputError(
                    "source.reader 'list' needs list.file, one list of all splits, or root, a folder of one per split."
                )
        elif self.root is None:
            raise InputError(f"source.reader {self.reader!r} needs source.root, the folder of the data.")
        if self.reader == "wds" and self.num_classes is None:
            raise InputError("source.reader 'wds' needs source.num_classes, which shards do not contain.")
        if self.reader == "images" and (self.num_classes is not None or self.class_map is not None):
            raise InputError("source.reader 'images' reads no labels: leave out source.num_classes and class_map.")
        if self.class_map is not None and not Path(self.class_map).is_file():
            raise FileNotFoundError(f"There is no class_map file {self.class_map}.")
        if self.list is not None and self.reader != "list":
            raise InputError(f"source.list needs source.reader 'list', got {self.reader!r}.")
        if self.split is not None:
            if self.reader not in ("folder", "list"):
                raise InputError(f"source.split needs source.reader 'folder' or 'list', got {self.reader!r}.")
            if self.reader == "list" and (self.list is None or self.list.file is None or self.list.split is not None):
                raise InputError("source.split needs list.file and no list.split: the other lists are already split.")
        if self.channels is not None and (self.channels < 1 or self.streams):
            raise InputError(
                f"channels must be 1 or more and needs random access, got {self.channels} with the reader "
                f"{self.reader}."
            )

    @property
    def targets(self) -> TargetKind:
        """The kind of the targets: `class`, `classes` or `scores`."""
        return "class" if self.list is None else self.list.targets

    @property
    def labelled(self) -> bool:
        """Whether the images have labels."""
        return self.reader != "images"

    @property
    def streams(self) -> bool:
        """Whether the data can only be read sequentially."""
        return self.reader in ("wds", "hfds-streaming")

    def open(self, split: Split, num_workers: int, seed: int, classes: Mapping[str, int] | None = None) -> "OpenSplit":
        """Open and check a split.

        Args:
            split: split to open.
            num_workers: worker processes of the loader.
            seed: seed of the shuffling of streams.
            classes: numbers of the classes of the training split, if they are known.

        Raises:
            InputError: if the number of classes is unknown or differs from `num_classes`.
            FileNotFoundError: if there is no such split.
        """
        reader = self._reader(split, split == "train", num_workers, seed, classes)
        if not self.labelled:
            return OpenSplit(self, reader, 1, None, seed)  # all labels are 0
        classes = getattr(reader, "class_to_idx", None)
        found = max(classes.values()) + 1 if classes else None
        if self.num_classes is not None and found is not None and found != self.num_classes:
            raise InputError(f"num_classes is {self.num_classes}, but {self._describe(split)} has {found} classes.")
        num_classes = found or self.num_classes
        if num_classes is None:
            raise InputError(f"The number of classes of {self._describe(split)} is unknown: set num_classes.")
        names = sorted(classes, key=classes.__getitem__) if classes else None
        return OpenSplit(self, reader, num_classes, names, seed)

    def _describe(self, split: Split) -> str:
        return f"the split {self._name_of(split)} of {self.name or self.root or (self.list and self.list.file)}"

    def _name_of(self, split: Split) -> str:
        if split == "test" and self.test is None:
            return self.val
        name: str = getattr(self, split)
        return name

    def _reader(
        self, split: Split, training: bool, num_workers: int, seed: int, classes: Mapping[str, int] | None
    ) -> Any:
        name = self._name_of(split)
        samples = self.train_samples if training else None
        if self.reader == "wds":
            assert self.root is not None
            processes = max(1, num_workers) * process_rank()[1]
            return open_wds(
                self.root,
                name,
                training=training,
                num_samples=samples,
                seed=seed,
                target_key=self.target_key,
                shuffle_buffer=self.shuffle_buffer,
                processes=processes,
            )
        if self.name is not None and self.reader != "folder" and self.reader != "tar":
            keys = self.input_key or "image", self.target_key or "label"
            if self.reader == "hfds":
                return open_hfds(self.name, self.root, name, *keys)
            return open_hfds_streaming(
                self.name,
                self.root,
                name,
                *keys,
                training=training,
                num_samples=samples,
                seed=seed,
                shuffle_buffer=self.shuffle_buffer,
            )
        if self.split is not None or (self.list is not None and self.list.file is not None):
            return self._select(split)
        if self.reader == "list":
            return self._open_list(split, classes)
        assert self.root is not None
        if self.reader == "images":
            return open_images(split_path(self.root, name), arrays=self.channels is not None)
        opener: Any = functools.partial(open_folder, arrays=self.channels is not None)
        opener, suffix = (open_tar, ".tar") if self.reader == "tar" else (opener, "")
        path = split_path(self.root, name, suffix)
        if self.class_map is not None:
            return opener(path, self.class_map)
        # use the class numbers of the training split: this split may lack some classes
        if classes is None and not training and (train := find_split(self.root, self.train, suffix)) is not None:
            classes = opener(train).class_to_idx
        return opener(path, classes)

    @functools.cached_property
    def _undivided(self) -> tuple[FileReader, NDArray[np.str_]]:
        """All images of a folder or list that has no folder or list per split, and the split of each image."""
        root = None if self.root is None else Path(self.root)
        column: list[str] | None = None
        if self.reader == "list":
            assert self.list is not None
            assert self.list.file is not None
            path, group = Path(self.list.file), None if self.split is None else self.split.group
            reader, column = open_list(path, self.list, root, group=group, classes=self._known_classes())
        else:
            assert root is not None
            path = root
            if not path.is_dir():
                raise FileNotFoundError(f"There is no folder {path}: root must be the folder of the data.")
            reader = open_folder(path, self.class_map, arrays=self.channels is not None)
        if self.split is not None:
            splits = reader.splits(self.split)
        elif column is not None:
            splits = np.asarray(column)
        else:
            raise InputError(
                f"{path} is one list for all splits: set list.split to its column with the splits, or set split to "
                "divide it at random."
            )
        check_trained(reader.targets, splits, reader.class_to_idx, str(path))
        return reader, splits

    def _select(self, split: Split) -> FileReader:
        """Return the reader of a split of `_undivided`. Without test images, return the validation images."""
        reader, splits = self._undivided
        if split == "test" and "test" not in splits:
            split = "val"
        rows = np.flatnonzero(splits == split)
        if not len(rows):
            assert self.list is not None
            raise InputError(f"{self.list.file} has no rows of the split {split} in the column {self.list.split!r}.")
        return reader.select(rows)

    def _known_classes(self) -> Mapping[str, int] | None:
        return None if self.class_map is None else read_class_map(self.class_map)

    def _open_list(self, split: Split, classes: Mapping[str, int] | None) -> FileReader:
        """Open the list of a split, with the classes of the training list."""
        assert self.root is not None
        config, root, known = self.list or ListConfig(), Path(self.root), self._known_classes()
        if known is None and split != "train":
            known = classes or open_list(_find_list(root, self.train), config, root)[0].class_to_idx
        return open_list(_find_list(root, self._name_of(split)), config, root, classes=known)[0]

    def split_table(self) -> str:
        """Return a random split as a CSV list with the columns path, label and split, for other runs and programs.

        Soft labels have one column per class in place of the column label.
        """
        if self.split is None:
            raise InputError("The source has no split: only a random split can be written.")
        reader, splits = self._undivided
        config = self.list or ListConfig()
        return reader.table(splits, config.separator, scores=config.targets == "scores")


def _find_list(root: Path, name: str) -> Path:
    """Return the list of a split: a file with this name, with or without the suffix."""
    if Path(name).suffix in TABLE_SUFFIXES:
        return root / name
    for found in split_names(name):
        for suffix in TABLE_SUFFIXES:
            if (root / f"{found}{suffix}").is_file():
                return root / f"{found}{suffix}"
    raise FileNotFoundError(f"{root} has no list {name} ({', '.join(TABLE_SUFFIXES)}).")
