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

__all__ = ["Inference", "Network", "label_map", "sliding_window_labels", "pad_to_multiple", "segment", "starts"]

Network = Callable[[Tensor], Tensor]

AT_ONCE = 2**24  # scores, of all classes, that are resized at once


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

    Resized a few rows at a time, so that the memory does not grow with the size: first between the rows of `scores`,
    and then along them, which gives what bilinear resizing gives.
    """
    if size is None or tuple(size) == tuple(scores.shape[2:]):
        return scores.argmax(1)
    height, width = size
    last = scores.shape[2] - 1
    at = (torch.arange(height, device=scores.device) + 0.5) * (scores.shape[2] / height) - 0.5
    at = at.clamp(0, last)
    above, share = at.long(), at.frac()[:, None]
    labels = torch.empty(len(scores), height, width, dtype=torch.long, device=scores.device)
    step = max(1, AT_ONCE // (scores[:, :, 0, 0].numel() * max(width, scores.shape[3])))
    for first in range(0, height, step):
        rows = slice(first, first + step)
        upper, lower = scores[:, :, above[rows]].float(), scores[:, :, (above[rows] + 1).clamp_max(last)].float()
        mixed = torch.lerp(upper, lower, share[rows].to(upper))
        labels[:, rows] = _resize(mixed, [mixed.shape[2], width]).argmax(1)
    return labels


def sliding_window_labels(look: Network, images: Tensor, window: int, stride: int | None = None) -> Tensor:
    """Find the class of each pixel in windows that overlap, with little memory.

    The scores of overlapping windows are added, as `segment` does, but only those of as many rows are kept as a window
    has: K x window x the shorter side of the image.

    Args:
        look: windows (B, C, h, w), in the type of `images`, to scores (B, K, h, w).
        images: (B, C, H, W)
        window: pixels a side of a window.
        stride: from one window to the next; None for two thirds of a window.

    Returns:
        (B, H, W), uint8: of at most 256 classes.
    """
    batch, _, height, width = images.shape
    if height < width:
        turned = sliding_window_labels(lambda x: look(x.mT).mT, images.mT, window, stride)
        return turned.mT
    tops, lefts = (starts(side, window, _stride(window, stride)) for side in (height, width))
    labels = torch.empty(batch, height, width, dtype=torch.uint8, device=images.device)
    sums: Tensor | None = None  # (B, K, rows of a window, W); the class with the largest sum has the largest mean, too
    for top, following in zip(tops, [*tops[1:], height], strict=True):
        for left in lefts:
            scores = look(images[:, :, top : top + window, left : left + window]).float()
            if sums is None:
                sums = scores.new_zeros(*scores.shape[:3], width)
            sums[..., left : left + window] += scores
        assert sums is not None
        done = following - top
        labels[:, top:following] = sums[:, :, :done].argmax(1)
        sums[:, :, : sums.shape[2] - done] = sums[:, :, done:].clone()
        sums[:, :, sums.shape[2] - done :] = 0
    return labels


def starts(length: int, window: int, stride: int) -> list[int]:
    """Where windows begin that cover a line: `stride` apart, the last one ending with the line."""
    last = max(length - window, 0)
    return [*range(0, last, stride), last]


def _stride(window: int, stride: int | None) -> int:
    return stride if stride is not None else max(1, window * 2 // 3)


def _look(network: Network, images: Tensor, how: Inference) -> Tensor:
    if how.mode == "whole":
        return _padded(network, images, how.multiple)
    height, width = images.shape[2:]
    stride = _stride(how.window, how.stride)
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
