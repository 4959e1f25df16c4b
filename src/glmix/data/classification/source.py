"""Image sources: one configuration for all readers, which opens splits and builds their loaders."""

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
from .readers import ReaderKind, open_folder, open_hfds, open_hfds_streaming, open_images, open_tar, open_wds
from .streams import EvalStream, TrainStream, read_hfds, read_wds
from .token_labels import Extent, Scores, TokenLabels, TokenLabelTransform
from .transforms import TransformConfig

__all__ = ["ImageSource", "OpenSplit", "TokenLabelConfig"]


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
        reader: `folder`: image files root/SPLIT/CLASS/*. `images`: image files anywhere in root/SPLIT, without labels,
            for distillation; the split `.` is root itself. `tar`: root/SPLIT.tar with one folder per class, or a folder
            root/SPLIT with one tar file per class. `wds`: WebDataset shards in root. `hfds`: a Hugging Face data set
            with random access. `hfds-streaming`: a Hugging Face data set in streaming mode.
        name: name or folder of the Hugging Face data set.
        train: name of the training split; with `wds` also a pattern of file names. Folders may have a common synonym
            of the name, such as validation for val.
        val: name of the validation split.
        test: name of the test split; None tests on `val`.
        num_classes: number of classes that the data must have; None takes it from the data. Required for `wds`, whose
            shards do not contain it.
        class_map: text file with class names in the order of their numbers; None for the alphabetical order.
        train_samples: number of training samples, for streams that do not contain it.
        input_key: key of the image, with `hfds` (None: image) and `wds` (None: the common image suffixes).
        target_key: key of the label, with `hfds` (None: label) and `wds` (a field of the json part;
            None: the cls part).
        shuffle_buffer: size of the shuffle buffer of a stream; None for the default of timm.
        max_bad_images: number of unreadable files that are skipped before training stops with an error.
        draft: decode training JPEGs at 1/2, 1/4 or 1/8 of their size if even the smallest crop keeps the resolution of
            the network input. This is faster for photographs of many megapixels; the pixels differ slightly.
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
                raise InputError(f"The reader {self.reader} needs name, the name of a data set.")
        elif self.root is None:
            raise InputError(f"The reader {self.reader} needs root, the folder of the data.")
        if self.reader == "wds" and self.num_classes is None:
            raise InputError("The reader wds needs num_classes, because shards do not contain the number of classes.")
        if self.reader == "images" and (self.num_classes is not None or self.class_map is not None):
            raise InputError("The reader images reads no classes: leave out num_classes and class_map of the source.")
        if self.class_map is not None and not Path(self.class_map).is_file():
            raise FileNotFoundError(f"There is no class_map file {self.class_map}.")

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
        if self.reader == "images":
            return open_images(split_path(self.root, name))
        opener, suffix = (open_tar, ".tar") if self.reader == "tar" else (open_folder, "")
        path = split_path(self.root, name, suffix)
        if self.class_map is not None:
            return opener(path, self.class_map)
        # use the class numbers of the training split: this split may lack some classes
        if classes is None and not training and (train := find_split(self.root, self.train, suffix)) is not None:
            classes = opener(train).class_to_idx
        return opener(path, classes)


class OpenSplit:
    """An opened split, with its classes and loaders."""

    def __init__(
        self, source: ImageSource, reader: Any, num_classes: int, class_names: list[str] | None, seed: int
    ) -> None:
        self.source, self.reader, self.seed = source, reader, seed
        self.num_classes, self.class_names = num_classes, class_names
        self.classes: Mapping[str, int] | None = getattr(reader, "class_to_idx", None) or None
        self.bad = BadImages(source.max_bad_images)
        self.labels: TokenLabels | None = None

    def add_labels(self, config: TokenLabelConfig) -> None:
        """Add dense labels to training batches. Raise FileNotFoundError if an image has no label map."""
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
        """Return a training loader with augmentation and exact resume; see `train_loader` for the arguments."""
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
            shuffle=not self.source.streams,  # streams shuffle their samples themselves
            limit=limit,
            epoch=epoch,
            num_workers=num_workers,
            collate=collate,
        )

    def eval_loader(self, transforms: TransformConfig, batch_size: int, num_workers: int) -> DataLoader[Any]:
        """Return a loader that yields each sample once."""
        if self.source.streams:
            stream = EvalStream(self._open_pass, transforms.eval(), self.num_classes, self.bad)
            return stream_loader(stream, batch_size, num_workers=num_workers)
        dataset = ImageSamples(self.reader, transforms.eval(), self.num_classes, self.bad)
        return eval_loader(dataset, len(dataset), batch_size, num_workers=num_workers, collate=collate_readable)

    @property
    def _open_pass(self) -> Any:
        """Function (epoch, pass) -> iterator over the samples of this worker in a stream."""
        if self.source.reader == "wds":
            return functools.partial(read_wds, self.reader, self.seed)
        return functools.partial(read_hfds, self.reader)
