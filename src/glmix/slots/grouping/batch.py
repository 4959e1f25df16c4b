"""One batch of images on its way through scoring: every segmentation of it, and the scores of each."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from ...models import GLNet
from ..cut import slot_kernel
from ..maps import BlockMaps, slot_maps
from ..measures import effective_slots_per_image, effective_slots_per_pixel, resize_assignment, strongest_slots
from . import scores
from .controls import BLUR, Superpixels, features_of, kmeans_segments, regular_cells
from .truth import Truth

__all__ = ["CONTROLS", "SLOTS", "Batch", "batches", "images_of", "roots_of", "segments_of", "stacked"]

Labels = NDArray[np.integer[Any]]
Row = dict[str, float]
SLOTS = "slots"
CONTROLS = ("untrained", "grid", "SLIC", "SLIC blurred", "k-means")
SLICS = {"SLIC": 0.0, "SLIC blurred": BLUR}


def images_of(model: GLNet, truths: Sequence[Truth]) -> Tensor:
    """The images of a batch as the model was trained to see them (B, C, H, W), on its device and of its dtype."""
    like = next(model.parameters())
    images = torch.from_numpy(np.stack([truth.image for truth in truths])).permute(0, 3, 1, 2).float() / 255
    if model.in_chans == 1:
        images = images.mean(1, keepdim=True)
    mean, std = (torch.tensor(model.pretrained_cfg[key]).view(1, -1, 1, 1) for key in ("mean", "std"))
    return ((images - mean) / std).to(like.device, like.dtype)


def batches(truths: Iterable[Truth], most: int) -> Iterator[list[Truth]]:
    """Truths that follow one another and have the same size, at most so many at once."""
    batch: list[Truth] = []
    for truth in truths:
        if batch and (len(batch) == most or truth.image.shape != batch[0].image.shape):
            yield batch
            batch = []
        batch.append(truth)
    if batch:
        yield batch


def segments_of(maps: BlockMaps, size: tuple[int, int]) -> Labels:
    """The strongest slot of each pixel of the images: (B, H, W)."""
    labels: Labels = (
        strongest_slots(resize_assignment(maps.assignment, maps.grid, size)).unflatten(1, size).cpu().numpy()
    )
    return labels


def roots_of(maps: Sequence[BlockMaps]) -> Tensor:
    """The square roots of the assignments of blocks as features (B, S, h, w), each pixel of length one, on the finest
    grid. Their distances are those of Hellinger between distributions over slots.

    The temperature is the learnt one: for k-means it was better on scenes than that of the cut.
    """
    kernel = slot_kernel(maps, effective=None)
    return kernel.assignment.sqrt().unflatten(2, kernel.grid)


def stacked(features: Sequence[Tensor]) -> Tensor:
    """Features of blocks (B, C, h, w), each pixel of length one in each block, side by side on the finest grid."""
    grid = max((part.shape[2:] for part in features), key=lambda size: size[0] * size[1])
    parts = [F.normalize(part.float(), dim=1) for part in features]
    return torch.cat([F.interpolate(part, list(grid), mode="bilinear", align_corners=False) for part in parts], 1)


class Batch:
    """What the model, an untrained one and the controls make of some images of one size.

    Args:
        fresh: the untrained model; None where it is not among the controls.
    """

    def __init__(
        self,
        model: GLNet,
        fresh: GLNet | None,
        truths: Sequence[Truth],
        blocks: Sequence[int] | None,
        controls: Sequence[str],
        seed: int,
    ) -> None:
        self.truths, self.controls, self.seed = truths, controls, seed
        self.size = (truths[0].image.shape[0], truths[0].image.shape[1])
        images = images_of(model, truths)
        with features_of(model) as features:
            self.maps = slot_maps(model, images, blocks)
        self.features = [features[maps.name] for maps in self.maps]
        self.untrained = slot_maps(fresh, images, blocks) if fresh is not None else []
        self.superpixels = {
            name: [Superpixels(truth.image, blur) for truth in truths]
            for name, blur in SLICS.items()
            if name in controls
        }

    def block_rows(self, place: int) -> dict[str, list[Row]]:
        """Scores of the strongest slots of one block, and of controls with as many segments in each image."""
        maps = self.maps[place]
        labels = segments_of(maps, self.size)
        found = {SLOTS: _slot_rows(maps, labels, self.truths)}
        if self.untrained:
            other = self.untrained[place]
            found["untrained"] = _slot_rows(other, segments_of(other, self.size), self.truths)
        counts = [len(np.unique(one)) for one in labels]
        return found | self._controls(counts, self.features[place])

    def joint_rows(self, count: int) -> dict[str, list[Row]]:
        """Scores of `count` segments, k-means on the assignments of all blocks together, and of controls with as many:
        the same of the untrained model, and k-means on the features of all blocks."""
        found = {SLOTS: self._clustered(roots_of(self.maps), count)}
        if self.untrained:
            found["untrained"] = self._clustered(roots_of(self.untrained), count)
        return found | self._controls([count] * len(self.truths), stacked(self.features))

    def _controls(self, counts: Sequence[int], features: Tensor) -> dict[str, list[Row]]:
        """Those that are given how many segments to make in each image."""
        made: dict[str, Callable[[int, int], Labels]] = {
            "grid": lambda _, count: regular_cells(*self.size, count),
            "SLIC": lambda i, count: self.superpixels["SLIC"][i].near(count),
            "SLIC blurred": lambda i, count: self.superpixels["SLIC blurred"][i].near(count),
            "k-means": lambda i, count: kmeans_segments(features[i], count, self.size, self.seed),
        }
        return {
            name: [
                _row(make(i, count), truth) for i, (count, truth) in enumerate(zip(counts, self.truths, strict=True))
            ]
            for name, make in made.items()
            if name in self.controls
        }

    def _clustered(self, points: Tensor, count: int) -> list[Row]:
        return [
            _row(kmeans_segments(points[i], count, self.size, self.seed), truth) for i, truth in enumerate(self.truths)
        ]


def _row(labels: Labels, truth: Truth) -> dict[str, float]:
    """All scores of one segmentation."""
    row = {
        "achievable_accuracy": scores.achievable_accuracy(labels, truth.regions),
        "purity": scores.purity(labels, truth.regions),
        "undersegmentation_error": scores.undersegmentation_error(labels, truth.regions),
        "boundary_recall": scores.boundary_recall(labels, truth.regions),
        "boundary_precision": scores.boundary_precision(labels, truth.regions),
        "segments": float(len(np.unique(labels))),
    }
    if truth.objects is not None:
        row["oracle_iou"] = scores.oracle_iou(labels, truth.objects)
        row["mean_best_overlap"] = scores.mean_best_overlap(labels, truth.objects)
        row["foreground_ari"] = scores.foreground_ari(labels, truth.objects)
    return row


def _slot_rows(maps: BlockMaps, labels: Labels, batch: Sequence[Truth]) -> list[dict[str, float]]:
    """Scores of slots, with what is known of slots alone: on the block's own grid, of every image."""
    per_pixel = effective_slots_per_pixel(maps.assignment).mean(1).tolist()
    per_image = effective_slots_per_image(maps.assignment).tolist()
    strongest = strongest_slots(maps.assignment).cpu().numpy()
    return [
        {
            **_row(labels[i], truth),
            "effective_per_pixel": per_pixel[i],
            "effective_per_image": per_image[i],
            "dead_slots": float(scores.dead_slots(strongest[i], maps.assignment.shape[1])),
        }
        for i, truth in enumerate(batch)
    ]
