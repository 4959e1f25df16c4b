"""Sequential data sets on readers of timm: WebDataset shards and streamed Hugging Face data sets.

The position in a stream is a function of the draw: the batches of a process are distributed to its workers in turn, so
the number of a batch determines how many samples its worker has read before. After a resume, a worker opens the stream
of the epoch and skips that many samples without decoding them.
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
from ..core.decoding import UNREADABLE, BadImages
from ..core.sampling import Draw, process_rank, seed_of, seeded
from .dataset import checked_label
from .readers import require

__all__ = ["EvalStream", "RawSample", "TrainStream", "read_hfds", "read_wds"]


class RawSample(NamedTuple):
    """An encoded image of a stream with its label."""

    name: str
    content: bytes
    label: Any


Open = Callable[[int, int], Iterator[RawSample]]  # (epoch, pass in the epoch) -> samples of this worker
Decode = Callable[[Any], Image.Image]


def read_wds(reader: Any, seed: int, epoch: int, pass_index: int) -> Iterator[RawSample]:
    """Yield one pass of ReaderWds over the shards of this worker. The order depends on (seed, epoch, pass_index)."""
    rank, _ = process_rank()
    info = get_worker_info()
    reader.ds = None
    reader.worker_info = info
    reader.worker_id, reader.num_workers = (info.id, info.num_workers) if info else (0, 1)
    reader.worker_seed = seed_of(seed, epoch, pass_index, rank, reader.worker_id)
    reader.set_epoch(epoch)
    open_stream(reader)
    # skip the last two steps of timm: decoding, whose errors do not name the file, and renaming
    undecoded = reader.ds.pipeline[:-2]
    for sample in require("webdataset").DataPipeline(*undecoded).iterator1():
        name = f"{sample['__key__']} in {sample['__url__']}"
        content = next((sample[key] for key in reader.input_key.split(";") if key in sample), None)
        if content is None:
            raise InputError(f"{name} has no image: it has the parts {', '.join(sorted(sample))}.")
        if reader.target_key:
            label = json.loads(sample["json"])[reader.target_key]
        elif "cls" in sample:
            label = int(sample["cls"])
        else:
            raise InputError(f"{name} has no label: it needs a .cls part, or a .json part and target_key.")
        yield RawSample(name, content, label)


def read_hfds(reader: Any, epoch: int, pass_index: int) -> Iterator[RawSample]:
    """Yield one pass of ReaderHfids over the samples of this worker. The order depends on (reader seed, epoch)."""
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
    """Data set that reads batches from a stream, which restarts when it ends. It is indexed with the draws of a batch.

    An unreadable image is replaced by the readable image before it in the batch.

    Args:
        open: function that starts a pass.
        decode: function that decodes the content of a file.
        transform: transform of an image.
        num_classes: number of classes.
        bad: counter of unreadable images.
        seed: seed of the augmentation.
    """

    def __init__(
        self,
        open: Open,
        decode: Decode,
        transform: Callable[[Image.Image], Tensor],
        num_classes: int,
        bad: BadImages,
        seed: int = 0,
    ) -> None:
        self.open, self.decode, self.transform = open, decode, transform
        self.num_classes, self.bad, self.seed = num_classes, bad, seed
        self._position = (-1, -1)  # epoch, and number of its samples that this worker has read
        self._samples: Iterator[RawSample] = iter(())

    def __getitem__(self, index: int) -> Any:
        raise TypeError("A stream can only be read in batches.")

    def __getitems__(self, draws: Sequence[Draw]) -> list[Any]:
        _, world = process_rank()
        info = get_worker_info()
        epoch, position, _ = draws[0]
        batch = position // (world * len(draws))  # all batches are full
        before = batch // (info.num_workers if info else 1) * len(draws)
        if self._position != (epoch, before):
            self._samples = itertools.islice(self._repeat_passes(epoch), before, None)
        raw = list(itertools.islice(self._samples, len(draws)))
        self._position = (epoch, before + len(draws))

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

    def _repeat_passes(self, epoch: int) -> Iterator[RawSample]:
        for pass_index in itertools.count():
            empty = True
            for sample in self.open(epoch, pass_index):
                empty = False
                yield sample
            if empty:
                info = get_worker_info()
                raise InputError(
                    f"Worker {info.id if info else 0} got no sample from the stream: num_workers times the number of "
                    "processes may be at most the number of shards."
                )

    def _decode(self, sample: RawSample) -> Image.Image | None:
        try:
            return self.decode(sample.content)
        except UNREADABLE as error:
            self.bad.add(sample.name, error)
            return None


class EvalStream(IterableDataset[Any]):
    """Data set of one pass over a stream. Processes and workers share the shards and yield each sample once."""

    def __init__(
        self,
        open: Open,
        decode: Decode,
        transform: Callable[[Image.Image], Tensor],
        num_classes: int,
        bad: BadImages,
    ) -> None:
        self.open, self.decode, self.transform = open, decode, transform
        self.num_classes, self.bad = num_classes, bad

    def __iter__(self) -> Iterator[tuple[Tensor, int]]:
        for sample in self.open(0, 0):
            try:
                image = self.decode(sample.content)
            except UNREADABLE as error:
                self.bad.add(sample.name, error)
                continue
            yield self.transform(image), checked_label(sample.label, self.num_classes, sample.name)
