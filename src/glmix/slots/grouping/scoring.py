"""Grouping scores of a model's slots per block, with controls that have the same number of segments."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ...errors import InputError
from ...models import GLNet
from ..maps import BlockMaps
from .batch import CONTROLS, SLOTS, Batch, batches
from .controls import untrained_like
from .margins import Margin, margins, mean_of
from .truth import Truth

__all__ = ["CONTROLS", "METRICS", "SLOTS", "BlockScores", "Metric", "Scores", "score_slots"]

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Metric:
    """Description of a metric.

    Args:
        title: title in plots.
        short: title in tables.
        better: 1 if higher is better, -1 if lower is better, 0 if it is descriptive.
    """

    title: str
    short: str
    better: int = 1


METRICS = {
    "achievable_accuracy": Metric("achievable segmentation accuracy", "ASA"),
    "purity": Metric("purity of segments", "purity"),
    "undersegmentation_error": Metric("under-segmentation error", "under-seg.", -1),
    "boundary_recall": Metric("boundary recall", "recall"),
    "boundary_precision": Metric("boundary precision", "precision"),
    "oracle_iou": Metric("slot-oracle instance IoU", "oracle IoU"),
    "mean_best_overlap": Metric("mean best overlap (mBO)", "mBO"),
    "foreground_ari": Metric("ARI of the foreground", "ARI-FG"),
    "segments": Metric("segments", "segments", 0),
    "effective_per_pixel": Metric("effective slots per pixel", "eff. pixel", 0),
    "effective_per_image": Metric("effective slots per image", "eff. image", 0),
    "dead_slots": Metric("dead slots", "dead", 0),
}


@dataclass(frozen=True, eq=False)
class BlockScores:
    """Scores of one block, or of all blocks together with a given number of segments.

    Args:
        label: name in tables.
        place: position on the axis of a plot: the index of the block, or the number of segments.
        values: `{method: {metric: (images,)}}`; NaN where a score is not defined for an image.
        together: whether these are the scores of all blocks together.
    """

    label: str
    place: int
    values: dict[str, dict[str, Floats]]
    together: bool = False

    def mean(self, method: str, metric: str) -> float:
        """Return the mean over the images for which a score is defined; NaN if there is none."""
        return mean_of(self.values[method][metric])

    def margins(self, metric: str) -> list[Margin]:
        """Return the differences between the slots and every control, the smallest first."""
        controls = {name: found[metric] for name, found in self.values.items() if name != SLOTS}
        return margins(self.values[SLOTS][metric], controls, METRICS[metric].better)


@dataclass(frozen=True, eq=False)
class Scores:
    """Scores of a model's slots and of the controls.

    Args:
        blocks: scores per block, in the order of execution.
        joint: scores of all blocks together, sorted by number of segments.
    """

    blocks: list[BlockScores]
    joint: list[BlockScores]


def score_slots(
    model: GLNet,
    truths: Iterable[Truth],
    *,
    blocks: Sequence[int] | None = None,
    segments: Sequence[int] = (4, 8, 16),
    controls: Sequence[str] = CONTROLS,
    seed: int = 0,
    batch_size: int = 16,
    progress: Callable[[int], object] | None = None,
) -> Scores:
    """Score the slots of each block, and of all blocks together, and the controls.

    The segments of a block are the pixels of each strongest slot. Grid, SLIC and k-means get the same number of
    segments per image; the untrained network has the number that its own slots give. All blocks together are divided
    into a given number of segments by k-means on the square roots of their assignments, and so is every control.

    Args:
        model: a GLNet. Its training or evaluation mode is restored.
        truths: images with ground truth.
        blocks: as in `slot_maps`.
        segments: numbers of segments for all blocks together; empty to skip this evaluation.
        controls: names in `CONTROLS`.
        seed: random seed of the untrained network and of k-means.
        batch_size: maximum number of images per batch.
        progress: called after each batch with its number of images.

    Raises:
        InputError: a control is unknown, a number of segments is below 2, or there are no images.
    """
    unknown = [name for name in controls if name not in CONTROLS]
    if unknown:
        raise InputError(f"controls must be among {', '.join(CONTROLS)}; got {unknown[0]!r}.")
    if any(count < 2 for count in segments):
        raise InputError(f"segments must be 2 segments or more, got {min(segments)}.")
    fresh = untrained_like(model, seed) if "untrained" in controls else None
    described: list[BlockMaps] = []
    by_block: dict[int, dict[str, list[dict[str, float]]]] = {}
    joint: dict[int, dict[str, list[dict[str, float]]]] = {count: {} for count in segments}
    for some in batches(truths, batch_size):
        batch = Batch(model, fresh, some, blocks, controls, seed)
        described = described or batch.maps
        for place in range(len(batch.maps)):
            _extend(by_block.setdefault(place, {}), batch.block_rows(place))
        for count, table in joint.items():
            _extend(table, batch.joint_rows(count))
        if progress is not None:
            progress(len(some))
    if not described:
        raise InputError("There are no images to score.")
    return Scores(
        blocks=[
            BlockScores(f"{maps.index} ({maps.name})", maps.index, _arrays(by_block[place], controls))
            for place, maps in enumerate(described)
        ],
        joint=[
            BlockScores(f"{count} segments", count, _arrays(table, controls), together=True)
            for count, table in sorted(joint.items())
        ],
    )


def _extend(table: dict[str, list[dict[str, float]]], rows: dict[str, list[dict[str, float]]]) -> None:
    """Append the rows of a batch to a table."""
    for method, found in rows.items():
        table.setdefault(method, []).extend(found)


def _arrays(table: dict[str, list[dict[str, float]]], controls: Sequence[str]) -> dict[str, dict[str, Floats]]:
    """Return `{method: {metric: (images,)}}`, slots first, then the controls in their order."""
    return {
        method: {name: np.array([row.get(name, np.nan) for row in table[method]]) for name in METRICS}
        for method in (SLOTS, *controls)
    }
