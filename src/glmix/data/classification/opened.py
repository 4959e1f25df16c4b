"""An opened split of images, with its classes and loaders."""

import functools
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from numpy.typing import NDArray
from PIL import Image
from torch.utils.data import DataLoader, default_collate

from ...errors import InputError
from ..core.arrays import decode_array, preview
from ..core.decoding import UNREADABLE, BadImages, decode, reduced_side
from ..core.loaders import eval_loader, stream_loader, train_loader
from .channels import array_transform, channel_statistics
from .dataset import ImageSamples, collate_readable
from .files import main_classes
from .streams import EvalStream, TrainStream, read_hfds, read_wds
from .token_labels import TokenLabels, TokenLabelTransform
from .transforms import TransformConfig

if TYPE_CHECKING:
    from .source import ImageSource, TokenLabelConfig

__all__ = ["OpenSplit"]


class OpenSplit:
    """An opened split, with its classes and loaders."""

    def __init__(
        self, source: "ImageSource", reader: Any, num_classes: int, class_names: list[str] | None, seed: int
    ) -> None:
        self.source, self.reader, self.seed = source, reader, seed
        self.num_classes, self.class_names = num_classes, class_names
        self.classes: Mapping[str, int] | None = getattr(reader, "class_to_idx", None) or None
        self.bad = BadImages(source.max_bad_images)
        self.labels: TokenLabels | None = None

    def __len__(self) -> int:
        """Return the number of images. It is unknown for streams."""
        return len(self.reader)

    @property
    def targets(self) -> NDArray[Any]:
        """Class of each image (N,), or a value for each class (N, K).

        Raises:
            InputError: if the reader does not know them before it reads the images.
        """
        targets = getattr(self.reader, "targets", None)
        if targets is None:
            raise InputError(
                f"The numbers of images per class are unknown with the reader {self.source.reader}: balancing needs "
                "the reader folder, list or tar."
            )
        found: NDArray[Any] = targets
        return found

    def measure(self, transforms: TransformConfig) -> TransformConfig:
        """Return the transforms with the mean and standard deviation of the images; see `channel_statistics`."""
        assert self.source.channels is not None
        mean, std = channel_statistics(self.reader, self.source.channels)
        return replace(transforms, mean=mean, std=std)

    def _decoder(self, at_least: int | None = None) -> Any:
        if self.source.channels is not None:
            return functools.partial(decode_array, channels=self.source.channels)
        return functools.partial(decode, at_least=at_least, upright=self.source.upright)

    def _transform(self, transforms: TransformConfig, training: bool) -> Any:
        if self.source.channels is not None:
            return array_transform(transforms, training)
        return transforms.train() if training else transforms.eval()

    def add_labels(self, config: "TokenLabelConfig") -> None:
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
        balanced: bool = False,
    ) -> Any:
        """Return a training loader with augmentation and exact resume; see `train_loader` for the arguments."""
        dataset: Any
        if self.source.streams:
            dataset = TrainStream(
                self._open_pass, self._decoder(), transforms.train(), self.num_classes, self.bad, seed
            )
            length, collate = self.reader.num_samples, default_collate
        else:
            at_least = reduced_side(transforms.size, transforms.scale[0]) if self.source.draft else None
            labels = self.labels
            transform = self._transform(transforms, True) if labels is None else TokenLabelTransform(transforms, labels)
            decoder = self._decoder(at_least)
            dataset = ImageSamples(self.reader, decoder, transform, self.num_classes, self.bad, seed=seed)
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
            classes=torch.from_numpy(main_classes(self.targets)) if balanced else None,
        )

    def eval_loader(self, transforms: TransformConfig, batch_size: int, num_workers: int) -> DataLoader[Any]:
        """Return a loader that yields each sample once."""
        if self.source.streams:
            stream = EvalStream(self._open_pass, self._decoder(), transforms.eval(), self.num_classes, self.bad)
            return stream_loader(stream, batch_size, num_workers=num_workers)
        transform = self._transform(transforms, False)
        dataset = ImageSamples(self.reader, self._decoder(), transform, self.num_classes, self.bad)
        return eval_loader(dataset, len(dataset), batch_size, num_workers=num_workers, collate=collate_readable)

    def sample_name(self, index: int) -> str | None:
        """Return the file name of an image below the root; None if it has none."""
        return None if self.source.streams else self.reader.filename(index) or None

    def sample_picture(self, index: int) -> Image.Image | None:
        """Return an image without transforms; None if it cannot be read, or only in sequence.

        An image with other channels than RGB is shown by `preview`.
        """
        if self.source.streams:
            return None
        try:
            found = self._decoder()(self.reader[index][0])
        except UNREADABLE:
            return None
        return found if isinstance(found, Image.Image) else preview(found)

    @property
    def _open_pass(self) -> Any:
        """Function (epoch, pass) -> iterator over the samples of this worker in a stream."""
        if self.source.reader == "wds":
            return functools.partial(read_wds, self.reader, self.seed)
        return functools.partial(read_hfds, self.reader)
