"""Inference of any segmentation network at any image size: whole images, sliding windows, test-time augmentation.

Shapes: B images, C channels, K classes, H x W pixels.
"""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise, product
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from ...errors import InputError
from ...interrupts import delay_interrupt
from ...layers.capture import is_exporting

__all__ = [
    "Inference",
    "Network",
    "label_map",
    "pad_to_multiple",
    "segment",
    "sliding_window_labels",
    "sliding_window_rows",
    "window_starts",
]

Network = Callable[[Tensor], Tensor]

Blend = Literal["mean", "centre"]
Read = Callable[[int, int, int, int], Tensor]

MAX_SCORES = 2**24  # scores, over all classes, that are resized at once, which bounds the memory


@dataclass(frozen=True)
class Inference:
    """Inference settings.

    Args:
        mode: `whole` for whole images, or `slide` for a sliding window, see `blend`.
        window: side of a square window in pixels.
        stride: distance between windows in pixels; None: two thirds of `window`.
        scales: test-time augmentation: image scales whose probabilities are averaged.
        flip: test-time augmentation: also average over the horizontally flipped image.
        multiple: pad the network's input to a multiple of this size; 1 for networks that accept any size, such as
            `SegmentationNet`.
        blend: combination of overlapping windows: `mean` averages their scores; `centre` takes the scores of the window
            with the nearest centre, which has the most context around the pixel. `centre` stores no scores, so its
            memory does not grow with the number of classes.
    """

    mode: Literal["whole", "slide"] = "whole"
    window: int = 512
    stride: int | None = None
    scales: tuple[float, ...] = (1.0,)
    flip: bool = False
    multiple: int = 1
    blend: Blend = "mean"

    def __post_init__(self) -> None:
        object.__setattr__(self, "scales", tuple(self.scales))
        if self.mode not in ("whole", "slide"):
            raise InputError(f"mode must be 'whole' or 'slide', got {self.mode!r}.")
        if self.window < 1 or self.multiple < 1:
            raise InputError(f"window and multiple must be at least 1, got {self.window} and {self.multiple}.")
        if self.stride is not None and not 1 <= self.stride <= self.window:
            raise InputError(f"stride must be from 1 to the window of {self.window}, got {self.stride}.")
        if self.blend not in get_args(Blend):
            raise InputError(f"blend must be 'mean' or 'centre', got {self.blend!r}.")
        if not self.scales or min(self.scales) <= 0:
            raise InputError(f"scales must be one or more numbers above 0, got {self.scales}.")


WHOLE = Inference()


def pad_to_multiple(images: Tensor, multiple: int) -> tuple[Tensor, Tensor | None]:
    """Pad images (B, C, H, W) with zeros at the bottom and right to multiples of a size.

    Crop predictions back with `[..., :H, :W]`. An exported graph always computes the mask, because its sizes are
    dynamic.

    Returns:
        The padded images (B, C, H', W') and a mask (B, H', W'), which is true on the images and None without padding.
    """
    batch, _, height, width = images.shape
    if is_exporting():
        rows, cols = (
            torch.arange((side + multiple - 1) // multiple * multiple, device=images.device) for side in (height, width)
        )
        inside = (rows < height)[:, None] & (cols < width)
        padded = images[:, :, rows.clamp_max(height - 1)][..., cols.clamp_max(width - 1)]
        return padded.masked_fill(~inside, 0.0), inside.expand(batch, -1, -1)
    bottom, right = -height % multiple, -width % multiple
    if not bottom and not right:
        return images, None
    mask = torch.ones(batch, height, width, dtype=torch.bool, device=images.device)
    return F.pad(images, (0, right, 0, bottom)), F.pad(mask, (0, right, 0, bottom))


def segment(network: Network, images: Tensor, inference: Inference = WHOLE) -> Tensor:
    """Segment images.

    Args:
        network: maps images (B, C, H, W) to logits (B, K, H, W).
        images: (B, C, H, W).
        inference: inference settings.

    Returns:
        Scores (B, K, H, W): logits, or mean probabilities with test-time augmentation.
    """
    augmentations = list(product(inference.scales, (False, True) if inference.flip else (False,)))
    if augmentations == [(1.0, False)]:
        return _logits(network, images, inference)
    total: Tensor | None = None
    for scale, flipped in augmentations:
        size = [max(1, round(side * scale)) for side in images.shape[2:]]
        resized = images if scale == 1 else _resize(images, size, antialias=True)
        logits = _logits(network, resized.flip(3) if flipped else resized, inference)
        probabilities = _resize(logits.float().softmax(1), list(images.shape[2:]))
        probabilities = probabilities.flip(3) if flipped else probabilities
        total = probabilities if total is None else total + probabilities
    assert total is not None
    return total / len(augmentations)


def label_map(scores: Tensor, size: tuple[int, int] | None = None) -> Tensor:
    """Return the class with the highest score per pixel, optionally at another size.

    Scores are resized bilinearly, a few output rows at a time, so that the memory is bounded: first interpolated
    between the rows of `scores`, then along them.

    Args:
        scores: (B, K, h, w).
        size: (H, W) of the label map; None: the size of `scores`.

    Returns:
        Class indices (B, H, W).
    """
    if size is None or tuple(size) == tuple(scores.shape[2:]):
        return scores.argmax(1)
    height, width = size
    last = scores.shape[2] - 1
    source = (torch.arange(height, device=scores.device) + 0.5) * (scores.shape[2] / height) - 0.5
    source = source.clamp(0, last)
    above, fraction = source.long(), source.frac()[:, None]
    labels = torch.empty(len(scores), height, width, dtype=torch.long, device=scores.device)
    step = max(1, MAX_SCORES // (scores[:, :, 0, 0].numel() * max(width, scores.shape[3])))
    for first in range(0, height, step):
        rows = slice(first, first + step)
        upper, lower = scores[:, :, above[rows]].float(), scores[:, :, (above[rows] + 1).clamp_max(last)].float()
        interpolated = torch.lerp(upper, lower, fraction[rows].to(upper))
        labels[:, rows] = _resize(interpolated, [interpolated.shape[2], width]).argmax(1)
    return labels


def sliding_window_labels(network: Network, images: Tensor, inference: Inference, per_pass: int = 1) -> Tensor:
    """Return the class of each pixel with a sliding window and bounded memory; see `sliding_window_rows`.

    Args:
        network: maps windows (B, C, h, w), in the dtype of `images`, to scores (B, K, h, w).
        images: (B, C, H, W).
        inference: window, stride and blending.
        per_pass: number of windows of an image in one forward pass.

    Returns:
        Class indices (B, H, W), uint8, for at most 256 classes.
    """
    height, width = images.shape[2:]
    if height < width:  # the shorter rows of windows take less memory
        return sliding_window_labels(lambda x: network(x.mT).mT, images.mT, inference, per_pass).mT

    def read(top: int, left: int, height: int, width: int) -> Tensor:
        return images[:, :, top : top + height, left : left + width]

    return torch.cat(list(sliding_window_rows(network, read, (height, width), inference, per_pass)), 1)


def sliding_window_rows(
    network: Network, read: Read, size: tuple[int, int], inference: Inference, per_pass: int = 1
) -> Iterator[Tensor]:
    """Yield the class of each pixel from top to bottom with a sliding window and bounded memory.

    With the blending `mean`, the scores of overlapping windows are added, as in `segment`, and the memory holds the
    scores of one row of windows: K x window x W. With `centre`, it holds only the scores of one forward pass.

    Args:
        network: maps windows (N, C, h, w) to scores (N, K, h, w).
        read: returns the window (B, C, h, w) at (top, left, h, w) of B images.
        size: (H, W) of the images.
        inference: window, stride and blending.
        per_pass: number of windows of an image in one forward pass.

    Yields:
        Class indices (B, rows, W), uint8, for at most 256 classes.
    """
    height, width = size
    stride = _stride(inference.window, inference.stride)
    tops, lefts = (window_starts(side, inference.window, stride) for side in size)
    high, wide = min(inference.window, height), min(inference.window, width)
    rows, columns = _centres(tops, high, height), _centres(lefts, wide, width)
    places = [(top, left) for top in tops for left in lefts]
    chunks = [places[k : k + per_pass] for k in range(0, len(places), per_pass)]
    sums: Tensor | None = None  # (B, K, high, W); the argmax of the sums equals the argmax of the means
    labels: Tensor | None = None  # (B, rows, W)

    def load(chunk: list[tuple[int, int]]) -> Tensor:
        return torch.cat([read(top, left, high, wide) for top, left in chunk])

    with ThreadPoolExecutor(1) as thread:  # reads the next windows while these are computed
        with delay_interrupt():
            loading = thread.submit(load, chunks[0])
        for number, chunk in enumerate(chunks):
            windows = loading.result()
            if number + 1 < len(chunks):
                with delay_interrupt():
                    loading = thread.submit(load, chunks[number + 1])
            for (top, left), scores in zip(chunk, network(windows).split(len(windows) // len(chunk)), strict=True):
                row, column = tops.index(top), lefts.index(left)
                (y, below), (x, right) = rows[row], columns[column]
                if inference.blend == "centre":
                    if labels is None:
                        labels = torch.empty(len(scores), below - y, width, dtype=torch.uint8, device=scores.device)
                    labels[:, :, x:right] = scores[:, :, y - top : below - top, x - left : right - left].argmax(1)
                else:
                    if sums is None:
                        sums = torch.zeros(*scores.shape[:3], width, device=scores.device)
                    sums[..., left : left + wide] += scores
                if left != lefts[-1]:
                    continue
                if sums is not None:
                    done = (tops[row + 1] if row + 1 < len(tops) else height) - top
                    labels = sums[:, :, :done].argmax(1).to(torch.uint8)
                    sums[:, :, : high - done] = sums[:, :, done:].clone()
                    sums[:, :, high - done :] = 0
                assert labels is not None
                yield labels
                labels = None


def _centres(starts: Sequence[int], window: int, length: int) -> list[tuple[int, int]]:
    """Return per window the range of positions of which its centre is the nearest."""
    borders = [(one + window + two) // 2 for one, two in pairwise(starts)]
    return list(zip([0, *borders], [*borders, length], strict=True))


def window_starts(length: int, window: int, stride: int) -> list[int]:
    """Return the start positions of windows that cover a length: `stride` apart, the last one ends at its end."""
    last = max(length - window, 0)
    return [*range(0, last, stride), last]


def _stride(window: int, stride: int | None) -> int:
    return stride if stride is not None else max(1, window * 2 // 3)


def _logits(network: Network, images: Tensor, inference: Inference) -> Tensor:
    """Return the logits of whole images, or the mean logits of sliding windows, (B, K, H, W)."""
    if inference.mode == "whole":
        return _padded_forward(network, images, inference.multiple)
    height, width = images.shape[2:]
    stride = _stride(inference.window, inference.stride)
    total: Tensor | None = None
    counts = torch.zeros(height, width, device=images.device)
    tops, lefts = (window_starts(side, inference.window, stride) for side in (height, width))
    rows, columns = _centres(tops, inference.window, height), _centres(lefts, inference.window, width)
    for (top, (y, below)), (left, (x, right)) in product(
        zip(tops, rows, strict=True), zip(lefts, columns, strict=True)
    ):
        window = (..., slice(top, top + inference.window), slice(left, left + inference.window))
        logits = _padded_forward(network, images[window], inference.multiple).float()
        if total is None:
            total = logits.new_zeros(*logits.shape[:2], height, width)
        if inference.blend == "centre":
            logits = logits[..., y - top : below - top, x - left : right - left]
            window = (..., slice(y, below), slice(x, right))
        total[window] += logits
        counts[window] += 1
    assert total is not None
    return total / counts


def _padded_forward(network: Network, images: Tensor, multiple: int) -> Tensor:
    """Return the logits of images that are padded to a multiple, cropped to the size of the images."""
    padded, _ = pad_to_multiple(images, multiple)
    logits = network(padded)
    if logits.shape[2:] != padded.shape[2:]:
        raise InputError(
            f"The network returns scores of size {tuple(logits.shape[2:])} for images of size "
            f"{tuple(padded.shape[2:])}; the sizes must be equal."
        )
    return logits[..., : images.shape[2], : images.shape[3]]


def _resize(x: Tensor, size: list[int], antialias: bool = False) -> Tensor:
    if list(x.shape[2:]) == size:
        return x
    return F.interpolate(x, size=size, mode="bilinear", align_corners=False, antialias=antialias)
