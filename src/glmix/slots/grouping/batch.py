"""Segmentations and scores of one batch of images: slots, an untrained network, and controls."""

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
from .controls import BLUR, Superpixels, kmeans_segments, record_features, regular_cells
from .truth import Truth

__all__ = [
    "CONTROLS",
    "SLOTS",
    "Batch",
    "batches",
    "normalised_images",
    "sqrt_assignments",
    "strongest_slot_segments",
    "concat_features",
]

Labels = NDArray[np.integer[Any]]
Row = dict[str, float]
SLOTS = "slots"
CONTROLS = ("untrained", "grid", "SLIC", "SLIC blurred", "k-means")
SLICS = {"SLIC": 0.0, "SLIC blurred": BLUR}


def normalised_images(model: GLNet, truths: Sequence[Truth]) -> Tensor:
    """Return the model input (B, C, H, W) of a batch, normalised, on the device and in the dtype of the model."""
    like = next(model.parameters())
    images = torch.from_numpy(np.stack([truth.image for truth in truths])).permute(0, 3, 1, 2).float() / 255
    if model.in_chans == 1:
        images = images.mean(1, keepdim=True)
    mean, std = (torch.tensor(model.pretrained_cfg[key]).view(1, -1, 1, 1) for key in ("mean", "std"))
    return ((images - mean) / std).to(like.device, like.dtype)


def batches(truths: Iterable[Truth], most: int) -> Iterator[list[Truth]]:
    """Group consecutive images of the same size, at most `most` per batch."""
    batch: list[Truth] = []
    for truth in truths:
        if batch and (len(batch) == most or truth.image.shape != batch[0].image.shape):
            yield batch
            batch = []
        batch.append(truth)
    if batch:
        yield batch


def strongest_slot_segments(maps: BlockMaps, size: tuple[int, int]) -> Labels:
    """Return the strongest slot of each pixel at the size of the images: (B, H, W)."""
    labels: Labels = (
        strongest_slots(resize_assignment(maps.assignment, maps.grid, size)).unflatten(1, size).cpu().numpy()
    )
    return labels


def sqrt_assignments(maps: Sequence[BlockMaps]) -> Tensor:
    """Return the square roots of the assignments as features (B, S, h, w) with unit norm per pixel, on the finest grid.

    Distances between these features are Hellinger distances between distributions over slots. The temperature is the
    learned one: on scenes, k-means scored higher with it than with the temperature of the cut.
    """
    kernel = slot_kernel(maps, effective=None)
    return kernel.assignment.sqrt().unflatten(2, kernel.grid)


def concat_features(features: Sequence[Tensor]) -> Tensor:
    """Concatenate features of blocks (B, C, h, w) on the finest grid, with unit norm per pixel in each block."""
    grid = max((part.shape[2:] for part in features), key=lambda size: size[0] * size[1])
    parts = [F.normalize(part.float(), dim=1) for part in features]
    return torch.cat([F.interpolate(part, list(grid), mode="bilinear", align_corners=False) for part in parts], 1)


class Batch:
    """Slots, an untrained network and controls for images of one size.

    Args:
        model: the model.
        fresh: the untrained model; None if it is not among the controls.
        truths: images with ground truth.
        blocks: indices of the blocks; None for all.
        controls: names in `CONTROLS`.
        seed: random seed of k-means.
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
        images = normalised_images(model, truths)
        with record_features(model) as features:
            self.maps = slot_maps(model, images, blocks)
        self.features = [features[maps.name] for maps in self.maps]
        self.untrained = slot_maps(fresh, images, blocks) if fresh is not None else []
        self.superpixels = {
            name: [Superpixels(truth.image, blur) for truth in truths]
            for name, blur in SLICS.items()
            if name in controls
        }

    def block_rows(self, place: int) -> dict[str, list[Row]]:
        """Score the strongest slots of one block, and controls with the same number of segments in each image.

        Args:
            place: position of the block in `self.maps`.

        Returns:
            `{method: [{metric: value} per image]}`.
        """
        maps = self.maps[place]
        labels = strongest_slot_segments(maps, self.size)
        found = {SLOTS: _slot_rows(maps, labels, self.truths)}
        if self.untrained:
            other = self.untrained[place]
            found["untrained"] = _slot_rows(other, strongest_slot_segments(other, self.size), self.truths)
        counts = [len(np.unique(one)) for one in labels]
        return found | self._controls(counts, self.features[place])

    def joint_rows(self, count: int) -> dict[str, list[Row]]:
        """Score `count` segments of all blocks together, and controls with the same number of segments.

        Segments are clusters of k-means on the assignments of all blocks. The untrained network is evaluated in the
        same way; the control k-means uses the features of all blocks.
        """
        found = {SLOTS: self._kmeans_rows(sqrt_assignments(self.maps), count)}
        if self.untrained:
            found["untrained"] = self._kmeans_rows(sqrt_assignments(self.untrained), count)
        return found | self._controls([count] * len(self.truths), concat_features(self.features))

    def _controls(self, counts: Sequence[int], features: Tensor) -> dict[str, list[Row]]:
        """Score the controls that accept a number of segments per image."""
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

    def _kmeans_rows(self, points: Tensor, count: int) -> list[Row]:
        """Score k-means segments of features (B, C, h, w)."""
        return [
            _row(kmeans_segments(points[i], count, self.size, self.seed), truth) for i, truth in enumerate(self.truths)
        ]


def _row(labels: Labels, truth: Truth) -> dict[str, float]:
    """Return all scores of one segmentation."""
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
    """Return the scores of slots, and the measures that only slots have, on the block's own grid."""
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
