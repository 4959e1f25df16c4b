"""Data read from end to end, by timm's readers: WebDataset shards and streamed Hugging Face data sets.

The place in a stream, too, is a function of the draw: every batch of a process goes to its workers in turn, so that
the number of a batch tells how much its worker has read before. A worker that is elsewhere, because training has been
resumed, opens the stream of that epoch and passes over as many samples without decoding them.
"""

import itertools
import json
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset, IterableDataset, get_worker_info

from ...compat import open_stream
from ...errors import InputError
from ..core.decoding import UNREADABLE, BadImages, decode
from ..core.sampling import Draw, process_rank, seed_of, seeded
from .dataset import checked_label
from .readers import require

__all__ = ["EvalStream", "RawSample", "TrainStream", "read_hfds", "read_wds"]


class RawSample(NamedTuple):
    """One image of a stream, not decoded yet."""

    name: str
    content: bytes
    label: Any


Open = Callable[[int, int], Iterator[RawSample]]  # (epoch, pass within it) -> this worker's share


def read_wds(reader: Any, seed: int, epoch: int, turn: int) -> Iterator[RawSample]:
    """One pass of timm's ReaderWds over this worker's shards, in an order of (seed, epoch, turn)."""
    rank, _ = process_rank()
    info = get_worker_info()
    reader.ds = None
    reader.worker_info = info
    reader.worker_id, reader.num_workers = (info.id, info.num_workers) if info else (0, 1)
    reader.worker_seed = seed_of(seed, epoch, turn, rank, reader.worker_id)
    reader.set_epoch(epoch)
    open_stream(reader)
    undecoded = reader.ds.pipeline[:-2]  # all but timm's decoding, whose failures name no file, and the renaming
    for sample in require("webdataset").DataPipeline(*undecoded).iterator1():
        name = f"{sample['__key__']} in {sample['__url__']}"
        content = next((sample[key] for key in reader.input_key.split(";") if key in sample), None)
        if content is None:
            raise InputError(f"{name} has no image: its parts are {', '.join(sorted(sample))}.")
        if reader.target_key:
            label = json.loads(sample["json"])[reader.target_key]
        elif "cls" in sample:
            label = int(sample["cls"])
        else:
            raise InputError(f"{name} has no label: it needs a part .cls, or target_key and a part .json.")
        yield RawSample(name, content, label)


def read_hfds(reader: Any, epoch: int, turn: int) -> Iterator[RawSample]:
    """One pass of timm's ReaderHfids over this worker's share, in an order of (its seed, epoch)."""
    if getattr(reader, "ds", None) is None:
        open_stream(reader)
        reader.ds = reader.ds.cast_column(reader.input_key, require("datasets").Image(decode=False))
    reader.ds.set_epoch(epoch)
    for number, sample in enumerate(reader.ds):
        image = sample[reader.input_key]
        name = image["path"] or f"Image {number} of the split {reader.split}"
        content = image["bytes"]
        if content is None:
            with open(image["path"], "rb") as file:
                content = file.read()
        yield RawSample(name, content, sample[reader.target_key])


class TrainStream(Dataset[Any]):
    """Whole batches of a stream that begins anew when it ends; asked for the draws of a batch, gives its samples.

    In place of an image that cannot be read stands the readable one before it in the batch.

    Args:
        open: begins a pass.
        transform: what becomes of an image.
        num_classes: how many labels there may be.
        bad: counts the images that cannot be read.
        seed: of the augmentation.
    """

    def __init__(
        self, open: Open, transform: Callable[[Image.Image], Tensor], num_classes: int, bad: BadImages, seed: int = 0
    ) -> None:
        self.open, self.transform, self.num_classes, self.bad, self.seed = open, transform, num_classes, bad, seed
        self._place = (-1, -1)  # epoch, and how many samples of it this worker has read
        self._samples: Iterator[RawSample] = iter(())

    def __getitem__(self, index: int) -> Any:
        raise TypeError("A stream is read in batches.")

    def __getitems__(self, draws: Sequence[Draw]) -> list[Any]:
        _, world = process_rank()
        info = get_worker_info()
        epoch, position, _ = draws[0]
        batch = position // (world * len(draws))  # batches are whole
        before = batch // (info.num_workers if info else 1) * len(draws)
        if self._place != (epoch, before):
            self._samples = itertools.islice(self._endless(epoch), before, None)
        raw = list(itertools.islice(self._samples, len(draws)))
        self._place = (epoch, before + len(draws))

        readable = {n: image for n, sample in enumerate(raw) if (image := self._decode(sample)) is not None}
        if not readable:
            raise InputError(f"None of the {len(raw)} images of a batch can be read; the last is {raw[-1].name}.")
        samples = []
        for number, draw in enumerate(draws):
            chosen = max((n for n in readable if n <= number), default=min(readable))
            label = checked_label(raw[chosen].label, self.num_classes, raw[chosen].name)
            with seeded(self.seed, draw.epoch, draw.position, 2):
                samples.append((self.transform(readable[chosen]), label))
        return samples

    def _endless(self, epoch: int) -> Iterator[RawSample]:
        for turn in itertools.count():
            empty = True
            for sample in self.open(epoch, turn):
                empty = False
                yield sample
            if empty:
                info = get_worker_info()
                raise InputError(
                    f"The stream gave worker {info.id if info else 0} no sample: num_workers times the number of "
                    "processes may be at most the number of shards."
                )

    def _decode(self, sample: RawSample) -> Image.Image | None:
        try:
            return decode(sample.content)
        except UNREADABLE as error:
            self.bad.add(sample.name, error)
            return None


class EvalStream(IterableDataset[Any]):
    """One pass over a stream, shards being dealt to processes and workers: no sample comes twice, none is left out."""

    def __init__(
        self, open: Open, transform: Callable[[Image.Image], Tensor], num_classes: int, bad: BadImages
    ) -> None:
        self.open, self.transform, self.num_classes, self.bad = open, transform, num_classes, bad

    def __iter__(self) -> Iterator[tuple[Tensor, int]]:
        for sample in self.open(0, 0):
            try:
                image = decode(sample.content)
            except UNREADABLE as error:
                self.bad.add(sample.name, error)
                continue
            yield self.transform(image), checked_label(sample.label, self.num_classes, sample.name)
