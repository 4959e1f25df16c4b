"""Where images are: one description for every reader, opened a split at a time and made into loaders."""

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch.utils.data import DataLoader, default_collate

from ...errors import InputError
from ..core.decoding import BadImages, reduced_side
from ..core.loaders import eval_loader, stream_loader, train_loader
from ..core.sampling import process_rank
from ..core.splits import find_split, split_path
from ..scenes import Split
from .dataset import ImageSamples, collate_readable
from .readers import ReaderKind, open_folder, open_hfds, open_hfds_streaming, open_tar, open_wds
from .streams import EvalStream, TrainStream, read_hfds, read_wds
from .token_labels import Extent, Scores, TokenLabels, TokenLabelTransform
from .transforms import TransformConfig

__all__ = ["ImageSource", "OpenSplit", "TokenLabelConfig"]


@dataclass(frozen=True)
class TokenLabelConfig:
    """Dense labels for training: see `TokenLabels`, whose `root` and settings these are."""

    root: str
    grid: int = 7
    scores: Scores = "probabilities"
    smoothing: float = 0.1
    extent: Extent = "image"


@dataclass(frozen=True)
class ImageSource:
    """Where images are and how they are read.

    Args:
        root: the folder that holds the data; with `hfds` the cache folder.
        reader: `folder`: root/SPLIT/CLASS/image files. `tar`: root/SPLIT.tar with folders of classes, or a folder
            root/SPLIT of tar files, one a class. `wds`: WebDataset shards under root. `hfds`: a Hugging Face data set
            with random access; `hfds-streaming`: the same, read while it arrives.
        name: the Hugging Face data set: its name, or a folder.
        train, val, test: names of the splits; with `wds` also a pattern of file names. Folders may have a usual
            synonym, such as validation for val. `test` None: the split `val` is tested on.
        num_classes: how many classes the data must have; None takes what they have. Shards do not tell, and need it.
        class_map: a text file of class names in the order of their numbers, or None for the alphabetical order.
        train_samples: number of training samples, for streams that do not tell it.
        input_key, target_key: what holds image and label, with `hfds` (None: image and label) and `wds` (None: the
            usual suffixes and the part cls; a target_key is a field of the part json).
        shuffle_buffer: samples of a stream among which the next one is drawn; None: timm's default.
        max_bad_images: how many files that cannot be read are skipped before training stops.
        draft: decode JPEGs for training at 1/2, 1/4 or 1/8 of their size where even the smallest crop keeps all the
            pixels that the network sees. Faster for photographs of many megapixels; the pixels differ slightly.
    """

    root: str | None = None
    reader: ReaderKind = "folder"
    name: str | None = None
    train: str = "train"
    val: str = "val"
    test: str | None = None
    num_classes: int | None = None
    class_map: str | None = None
    train_samples: int | None = None
    input_key: str | None = None
    target_key: str | None = None
    shuffle_buffer: int | None = None
    max_bad_images: int = 10
    draft: bool = False

    def __post_init__(self) -> None:
        if self.reader.startswith("hfds"):
            if self.name is None:
                raise InputError(f"The reader {self.reader} needs the name of a data set.")
        elif self.root is None:
            raise InputError(f"The reader {self.reader} needs root, the folder that holds the data.")
        if self.reader == "wds" and self.num_classes is None:
            raise InputError("Shards do not say how many classes there are: the reader wds needs num_classes.")
        if self.class_map is not None and not Path(self.class_map).is_file():
            raise FileNotFoundError(f"There is no class map {self.class_map}.")

    @property
    def streams(self) -> bool:
        """Whether the data can only be read from end to end."""
        return self.reader in ("wds", "hfds-streaming")

    def open(self, split: Split, num_workers: int, seed: int, classes: Mapping[str, int] | None = None) -> "OpenSplit":
        """Look at what is there; errors name what is wrong. `classes` are those of training, where they are known."""
        reader = self._reader(split, split == "train", num_workers, seed, classes)
        classes = getattr(reader, "class_to_idx", None)
        found = max(classes.values()) + 1 if classes else None
        if self.num_classes is not None and found is not None and found != self.num_classes:
            raise InputError(f"num_classes is {self.num_classes}, but {self._where(split)} has {found} classes.")
        num_classes = found or self.num_classes
        if num_classes is None:
            raise InputError(f"{self._where(split)} does not say how many classes it has: give num_classes.")
        names = sorted(classes, key=classes.__getitem__) if classes else None
        return OpenSplit(self, reader, num_classes, names, seed)

    def _where(self, split: Split) -> str:
        return f"the split {self._name_of(split)} of {self.name or self.root}"

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
        assert self.root is not None
        opener, suffix = (open_tar, ".tar") if self.reader == "tar" else (open_folder, "")
        path = split_path(self.root, name, suffix)
        if self.class_map is not None:
            return opener(path, self.class_map)
        # numbers are those of the training classes, though the split may lack some
        if classes is None and not training and (train := find_split(self.root, self.train, suffix)) is not None:
            classes = opener(train).class_to_idx
        return opener(path, classes)


class OpenSplit:
    """A split that has been looked at: its classes, and loaders over it."""

    def __init__(
        self, source: ImageSource, reader: Any, num_classes: int, class_names: list[str] | None, seed: int
    ) -> None:
        self.source, self.reader, self.seed = source, reader, seed
        self.num_classes, self.class_names = num_classes, class_names
        self.classes: Mapping[str, int] | None = getattr(reader, "class_to_idx", None) or None
        self.bad = BadImages(source.max_bad_images)
        self.labels: TokenLabels | None = None

    def add_labels(self, config: TokenLabelConfig) -> None:
        """Let training batches have dense labels, which must exist for every image."""
        self.labels = TokenLabels(
            config.root,
            self.num_classes,
            grid=config.grid,
            scores=config.scores,
            smoothing=config.smoothing,
            extent=config.extent,
        )
        self.labels.check(self.reader.filenames(absolute=True))

    def train_loader(
        self,
        transforms: TransformConfig,
        batch_size: int,
        *,
        repeats: int,
        limit: int | None,
        epoch: int,
        num_workers: int,
        seed: int,
    ) -> Any:
        """A loader of augmented whole batches that resumes exactly."""
        dataset: Any
        if self.source.streams:
            dataset = TrainStream(self._open_pass, transforms.train(), self.num_classes, self.bad, seed)
            length, collate = self.reader.num_samples, default_collate
        else:
            at_least = reduced_side(transforms.size, transforms.scale[0]) if self.source.draft else None
            transform = transforms.train() if self.labels is None else TokenLabelTransform(transforms, self.labels)
            dataset = ImageSamples(self.reader, transform, self.num_classes, self.bad, seed=seed, at_least=at_least)
            length, collate = len(dataset), collate_readable
        return train_loader(
            dataset,
            length,
            batch_size,
            seed=seed,
            repeats=repeats,
            shuffle=not self.source.streams,  # a stream shuffles itself
            limit=limit,
            epoch=epoch,
            num_workers=num_workers,
            collate=collate,
        )

    def eval_loader(self, transforms: TransformConfig, batch_size: int, num_workers: int) -> DataLoader[Any]:
        """A loader that gives each sample once."""
        if self.source.streams:
            stream = EvalStream(self._open_pass, transforms.eval(), self.num_classes, self.bad)
            return stream_loader(stream, batch_size, num_workers=num_workers)
        dataset = ImageSamples(self.reader, transforms.eval(), self.num_classes, self.bad)
        return eval_loader(dataset, len(dataset), batch_size, num_workers=num_workers, collate=collate_readable)

    @property
    def _open_pass(self) -> Any:
        if self.source.reader == "wds":
            return functools.partial(read_wds, self.reader, self.seed)
        return functools.partial(read_hfds, self.reader)
