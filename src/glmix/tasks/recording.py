"""A callback that stores the predictions of `glmix validate` and `glmix test` and writes a report on them."""

import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import lightning.pytorch as L
import numpy as np
import timm
import torch
from lightning.pytorch.utilities import rank_zero_warn
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from .._version import __version__
from ..compat import datamodule_of
from ..data.core.sampling import ShardSampler
from ..errors import InputError
from ..reports.predictions import (
    BoxPredictions,
    ClassPredictions,
    PixelPredictions,
    Predictions,
    compact,
    load_about,
    sample_names,
)
from ..reports.report import write_report
from ..reports.segmentation import WORST
from ..training.task import Task
from .detection.metrics import gather
from .detection.task import Detection
from .segmentation.task import IGNORE, Segmentation

__all__ = ["Recorder"]


class Recorder(L.Callback):
    """Store the predictions of an evaluation and write a report on the network with the better validation score.

    Each process keeps the predictions of its own samples on the CPU. At the end, the first process gathers the
    predictions of all processes.

    Args:
        folder: the folder of the predictions and of the report.

    Attributes:
        weights: the file with the evaluated weights, if it is known.
        written: whether this process has written a report.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.weights: Path | None = None
        self.written = False

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._start(trainer, trainer.val_dataloaders)

    def on_test_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._start(trainer, trainer.test_dataloaders)

    def on_validation_batch_end(self, trainer: L.Trainer, pl_module: Any, outputs: Any, batch: Any, *_: Any) -> None:
        self._record(trainer, pl_module, outputs, batch)

    def on_test_batch_end(self, trainer: L.Trainer, pl_module: Any, outputs: Any, batch: Any, *_: Any) -> None:
        self._record(trainer, pl_module, outputs, batch)

    # Lightning calls these hooks before those of the module, which reset the collected predictions of a detector
    def on_validation_epoch_end(self, trainer: L.Trainer, pl_module: Any) -> None:
        self._gather(pl_module)

    def on_test_epoch_end(self, trainer: L.Trainer, pl_module: Any) -> None:
        self._gather(pl_module)

    def on_validation_end(self, trainer: L.Trainer, pl_module: Any) -> None:
        self._write(trainer, pl_module)

    def on_test_end(self, trainer: L.Trainer, pl_module: Any) -> None:
        self._write(trainer, pl_module)

    # ---- recording

    def _start(self, trainer: L.Trainer, loader: Any) -> None:
        if trainer.is_global_zero:
            self.folder.mkdir(parents=True, exist_ok=True)  # fail before the evaluation rather than after it
        self.began = time.perf_counter()
        self.split = "test" if trainer.testing else "val"
        self.indices: list[int] = []
        self.parts: dict[str, list[Any]] = {}
        self.worst: dict[str, list[Any]] = {}  # network -> [(accuracy, index, ground truth, prediction)]
        self.gathered: list[Any] | None = None
        sampler = getattr(loader, "sampler", None)
        self.batches: Iterator[list[int]] | None = None
        if isinstance(sampler, ShardSampler):
            self.batches = iter(loader.batch_sampler)

    def _record(self, trainer: L.Trainer, task: Task, outputs: dict[str, Any], batch: Any) -> None:
        indices = self._indices_of(trainer, len(batch[0]))
        self.indices += indices
        for suffix, predictions in outputs.items():
            parts = self.parts.setdefault(suffix, [])
            if isinstance(task, Segmentation):
                for index, labels, mask in zip(indices, predictions, batch[1], strict=True):
                    parts.append(_pixel_counts(labels, mask, len(self._class_names(task))))
                    self._keep_worst(suffix, index, labels, mask, parts[-1])
            elif not isinstance(task, Detection):  # the metric of a detector keeps its predictions
                logits = predictions.float().cpu().numpy()
                multi_label = bool(getattr(task, "multi_label", False))
                targets = batch[1].cpu().numpy()
                if targets.ndim == 2 and not multi_label:  # soft labels
                    targets = targets.argmax(1)
                parts.append((compact(logits, multi_label), targets.astype(np.int64)))

    def _indices_of(self, trainer: L.Trainer, count: int) -> list[int]:
        """Return the indices of the samples of a batch in the data set, or of the stream, over all processes."""
        if self.batches is None:
            first = len(self.indices)
            return [(first + k) * trainer.world_size + trainer.global_rank for k in range(count)]
        indices = next(self.batches)
        if len(indices) > count:  # evaluation skips unreadable files
            data = datamodule_of(trainer)
            indices = [index for index in indices if data.sample_picture(self.split, index) is not None]
        if len(indices) != count:
            raise RuntimeError(f"A batch has {count} samples, but the sampler chose {len(indices)}.")
        return indices

    def _keep_worst(self, suffix: str, index: int, labels: Tensor, mask: Tensor, counts: NDArray[np.int64]) -> None:
        """Keep the label maps of the images with the lowest pixel accuracy."""
        target, predicted, pixels = counts
        accuracy = 1 - pixels[target != predicted].sum() / max(pixels.sum(), 1)
        kept = self.worst.setdefault(suffix, [])
        if len(kept) < WORST or (accuracy, index) < kept[-1][:2]:
            maps = (part.to(torch.uint8).cpu().numpy() for part in (mask, labels))
            kept.append((accuracy, index, *maps))
            kept.sort(key=lambda item: item[:2])
            del kept[WORST:]

    # ---- writing

    def _gather(self, task: Task) -> None:
        """Send the predictions of all processes to the first one."""
        if isinstance(task, Detection):
            self.parts = {s: [(kept.images, kept.ground_truth, kept.results)] for s, kept in task.scores.items()}
        self.gathered = gather((self.indices, self.parts, self.worst))
        self.parts, self.worst = {}, {}

    def _write(self, trainer: L.Trainer, task: Task) -> None:
        if self.gathered is None or not any(indices for indices, _, _ in self.gathered):
            return
        suffix = "_ema" if task.ema is not None and task.ema_is_better else ""
        data = datamodule_of(trainer)
        # an index that occurs twice is the same sample: a sampler of another library may repeat samples
        order, places = np.unique([index for indices, _, _ in self.gathered for index in indices], return_index=True)
        parts = [part for _, of_process, _ in self.gathered for part in of_process.get(suffix, [])]
        if not parts:  # images without labels
            return
        named = self.batches is not None and hasattr(data, "sample_name")
        names = sample_names([data.sample_name(self.split, int(index)) if named else str(index) for index in order])
        common = {"class_names": self._class_names(task), "names": names, "about": self._about(trainer, task, suffix)}
        try:
            predictions = self._predictions(task, parts, places, common, data)
            predictions.save(self.folder)
            worst = sorted((item for *_, kept in self.gathered for item in kept.get(suffix, [])), key=lambda i: i[:2])
            position = {int(index): k for k, index in enumerate(order)}

            def open_image(sample: int) -> Image.Image | None:
                found: Image.Image | None = data.sample_picture(self.split, int(order[sample])) if named else None
                return found

            write_report(
                self.folder,
                fit_on=self._validation(predictions),
                open_image=open_image,
                maps={position[index]: (truth, labels) for _, index, truth, labels in worst},
            )
            self.written = True
        except InputError as error:  # for example predictions that are not finite; the scores are printed all the same
            rank_zero_warn(f"There is no report: {error}")

    def _predictions(
        self, task: Task, parts: list[Any], places: NDArray[np.int64], common: dict[str, Any], data: Any
    ) -> Predictions:
        """Return the predictions in the order of the samples.

        Args:
            task: the task.
            parts: the predictions that `_record` kept.
            places: the place in `parts` of each sample.
            common: the arguments that all predictions have in common.
            data: the data module.
        """
        if isinstance(task, Detection):
            return _boxes(parts, places, common, data)
        if isinstance(task, Segmentation):
            chosen = [parts[place] for place in places]
            image = np.repeat(np.arange(len(chosen)), [counts.shape[1] for counts in chosen]).astype(np.int32)
            target, predicted, pixels = np.concatenate(chosen, axis=1)
            return PixelPredictions(
                image=image,
                target=target.astype(np.int16),
                predicted=predicted.astype(np.int16),
                pixels=pixels,
                **common,
            )
        logits, targets = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
        return ClassPredictions(logits=logits[places], targets=targets[places], **common)

    def _class_names(self, task: Task) -> list[str]:
        names = getattr(datamodule_of(task.trainer), "class_names", None)
        first = 1 if isinstance(task, Detection) else 0
        return list(names) if names else [f"class {k + first}" for k in range(task.num_classes or 0)]

    def _about(self, trainer: L.Trainer, task: Task, suffix: str) -> dict[str, Any]:
        """Return the metadata of the evaluation."""
        scores: dict[str, dict[str, float]] = {}
        for name, value in trainer.callback_metrics.items():
            split, *rest = name.split("/")
            if split == self.split and len(rest) == 1 and not rest[0].startswith("best_"):
                averaged = task.ema is not None and rest[0].endswith("_ema")
                kind = "" if task.ema is None else "EMA" if averaged else "raw"
                scores.setdefault(kind, {})[rest[0].removesuffix("_ema") if averaged else rest[0]] = float(value)
        data = datamodule_of(trainer)
        root = getattr(getattr(data, "source", data), "root", None)
        network = None if task.ema is None else f"{'EMA' if suffix else 'raw'} weights, the better in validation"
        weights = self.weights
        saved = None if weights is None else datetime.fromtimestamp(weights.stat().st_mtime, UTC)
        return {
            "weights": None if weights is None else str(weights),
            "weights_saved": None if saved is None else saved.isoformat(" ", "seconds"),
            "network": network,
            "model": f"{task.model_name} ({task.task_name})",
            "data": type(data).__name__ + (f", {root}" if root is not None else ""),
            "split": self.split,
            "threshold": getattr(task, "fixed_threshold", None) or getattr(task, "thresholds", {}).get(suffix),
            "created": datetime.now(UTC).isoformat(" ", "seconds"),
            "seconds": time.perf_counter() - self.began,
            "versions": {"glmix": __version__, "torch": torch.__version__, "timm": timm.__version__},
            "scores": scores,
        }

    def _validation(self, predictions: Predictions) -> Path | None:
        """Return the folder of the validation's predictions by the same weights, for a test of a classifier."""
        folder = self.folder.parent / "val"
        if self.split != "test" or not isinstance(predictions, ClassPredictions) or folder == self.folder:
            return None
        about, own = load_about(folder), predictions.about
        same = all(about.get(key) == own[key] for key in ("weights", "weights_saved", "network"))
        return folder if same and own["weights"] is not None else None


def _pixel_counts(labels: Tensor, mask: Tensor, classes: int) -> NDArray[np.int64]:
    """Return the pairs of classes in an image with their pixel counts (3, E): ground truth, prediction, pixels."""
    valid = mask != IGNORE
    counts = torch.bincount(mask[valid].long() * classes + labels[valid].long(), minlength=classes**2).cpu().numpy()
    pairs = np.flatnonzero(counts)
    return np.stack([pairs // classes, pairs % classes, counts[pairs]])


def _boxes(parts: list[Any], places: NDArray[np.int64], common: dict[str, Any], data: Any) -> BoxPredictions:
    """Return detections and ground truth with the category ids and the file names of the data."""
    images, annotations, results = ([item for part in kind for item in part] for kind in zip(*parts, strict=True))
    ids = getattr(data, "category_ids", None) or list(range(1, len(common["class_names"]) + 1))
    chosen = [images[place] for place in places]
    truth = {
        "images": [{**image, "file_name": name} for image, name in zip(chosen, common["names"], strict=True)],
        "annotations": [
            {**item, "id": k, "category_id": ids[item["category_id"] - 1]}
            for k, item in enumerate(annotations, start=1)
        ],
        "categories": [{"id": k, "name": name} for k, name in zip(ids, common["class_names"], strict=True)],
    }
    return BoxPredictions(
        truth=truth, results=[{**item, "category_id": ids[item["category_id"] - 1]} for item in results], **common
    )
