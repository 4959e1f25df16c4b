"""Segmentation of whole images of any size, in windows, at several scales and mirrored, with any network.

Letters: B images, K classes, H x W pixels.
"""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import product
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from ...errors import InputError

__all__ = ["Inference", "Network", "label_map", "pad_to_multiple", "segment", "starts"]

Network = Callable[[Tensor], Tensor]

CHUNK = 16  # classes that are resized at once


@dataclass(frozen=True)
class Inference:
    """How an image is looked at.

    Args:
        mode: `whole`, or `slide`: in windows, whose logits are averaged where they overlap.
        window: pixels a side of a window.
        stride: from one window to the next; None for two thirds of a window.
        scales: factors of the image's size at which it is seen; their probabilities are averaged.
        flip: see it mirrored too.
        multiple: the sizes that the network takes are multiples of this. 1 for those that take any, as ours do.
    """

    mode: Literal["whole", "slide"] = "whole"
    window: int = 512
    stride: int | None = None
    scales: tuple[float, ...] = (1.0,)
    flip: bool = False
    multiple: int = 1

    def __post_init__(self) -> None:
        object.__setattr__(self, "scales", tuple(self.scales))
        if self.mode not in ("whole", "slide"):
            raise InputError(f"mode must be 'whole' or 'slide', got {self.mode!r}.")
        if self.window < 1 or self.multiple < 1:
            raise InputError(f"window and multiple must be at least 1, got {self.window} and {self.multiple}.")
        if self.stride is not None and not 1 <= self.stride <= self.window:
            raise InputError(f"stride must be from 1 to the window's {self.window}, got {self.stride}.")
        if not self.scales or min(self.scales) <= 0:
            raise InputError(f"scales must be one or more factors above 0, got {self.scales}.")


WHOLE = Inference()


def pad_to_multiple(images: Tensor, multiple: int) -> tuple[Tensor, Tensor | None]:
    """Images (B, C, H, W) with zeros below and to the right, up to whole multiples, and where they are (B, H', W').

    The mask is None where nothing was added. Nothing moves: results are cut back with `[..., :H, :W]`.
    """
    batch, _, height, width = images.shape
    down, right = -height % multiple, -width % multiple
    if not down and not right:
        return images, None
    mask = torch.ones(batch, height, width, dtype=torch.bool, device=images.device)
    return F.pad(images, (0, right, 0, down)), F.pad(mask, (0, right, 0, down))


def segment(network: Network, images: Tensor, how: Inference = WHOLE) -> Tensor:
    """Images (B, C, H, W) to scores (B, K, H, W): logits of one look, mean probabilities of several."""
    looks = list(product(how.scales, (False, True) if how.flip else (False,)))
    if looks == [(1.0, False)]:
        return _look(network, images, how)
    total: Tensor | None = None
    for scale, mirrored in looks:
        size = [max(1, round(side * scale)) for side in images.shape[2:]]
        seen = images if scale == 1 else _resize(images, size, antialias=True)
        logits = _look(network, seen.flip(3) if mirrored else seen, how)
        chances = _resize(logits.float().softmax(1), list(images.shape[2:]))
        chances = chances.flip(3) if mirrored else chances
        total = chances if total is None else total + chances
    assert total is not None
    return total / len(looks)


def label_map(scores: Tensor, size: tuple[int, int] | None = None) -> Tensor:
    """Scores (B, K, H, W) to the class of each pixel (B, H, W), at another size if one is given.

    Resized a few classes at a time, so that large images with many classes fit the memory.
    """
    if size is None or tuple(size) == tuple(scores.shape[2:]):
        return scores.argmax(1)
    best, labels = None, None
    for first in range(0, scores.shape[1], CHUNK):
        values, places = _resize(scores[:, first : first + CHUNK].float(), list(size)).max(1)
        if best is None or labels is None:
            best, labels = values, places
        else:
            higher = values > best
            best, labels = torch.where(higher, values, best), torch.where(higher, places + first, labels)
    assert labels is not None
    return labels


def starts(length: int, window: int, stride: int) -> list[int]:
    """Where windows begin that cover a line: `stride` apart, the last one ending with the line."""
    last = max(length - window, 0)
    return [*range(0, last, stride), last]


def _look(network: Network, images: Tensor, how: Inference) -> Tensor:
    if how.mode == "whole":
        return _padded(network, images, how.multiple)
    height, width = images.shape[2:]
    stride = how.stride if how.stride is not None else max(1, how.window * 2 // 3)
    total: Tensor | None = None
    counts = torch.zeros(height, width, device=images.device)
    for top, left in product(starts(height, how.window, stride), starts(width, how.window, stride)):
        place = (..., slice(top, top + how.window), slice(left, left + how.window))
        logits = _padded(network, images[place], how.multiple).float()
        if total is None:
            total = logits.new_zeros(*logits.shape[:2], height, width)
        total[place] += logits
        counts[place] += 1
    assert total is not None
    return total / counts


def _padded(network: Network, images: Tensor, multiple: int) -> Tensor:
    padded, _ = pad_to_multiple(images, multiple)
    logits = network(padded)
    if logits.shape[2:] != padded.shape[2:]:
        raise InputError(
            f"The network gives {tuple(logits.shape[2:])} pixels for images of {tuple(padded.shape[2:])}: it must give "
            "a score for each pixel."
        )
    return logits[..., : images.shape[2], : images.shape[3]]


def _resize(x: Tensor, size: list[int], antialias: bool = False) -> Tensor:
    if list(x.shape[2:]) == size:
        return x
    return F.interpolate(x, size=size, mode="bilinear", align_corners=False, antialias=antialias)
