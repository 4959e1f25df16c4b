"""Stored predictions of an evaluation, from which a report is made without another forward pass.

A folder of predictions has `predictions.json` (task, class names, sample names, and what is known about the weights and
the data) and the predictions themselves: `predictions.npz` for classification and segmentation, or `ground_truth.json`
and `detections.json` in the formats of COCO for detection.
"""

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError
from ..files import atomic_write, write_atomically

__all__ = ["BoxPredictions", "ClassPredictions", "PixelPredictions", "Predictions", "load_predictions"]

DESCRIPTION, ARRAYS = "predictions.json", "predictions.npz"
TRUTH, DETECTIONS = "ground_truth.json", "detections.json"
PICTURES = "pictures"  # folder of the thumbnails of a report
EXACT_CLASSES = 100  # maximum number of classes whose logits are stored in float32; otherwise in float16


@dataclass(kw_only=True)
class Predictions:
    """Base class of the predictions of all tasks.

    Args:
        class_names: the names of the K classes, in the order of their indices.
        names: the name of each sample, such as its file.
        about: metadata of the evaluation: weights, network, model, data, split, created, versions, scores.
    """

    class_names: list[str]
    names: list[str]
    about: dict[str, Any] = field(default_factory=dict)

    task = ""

    def __len__(self) -> int:
        return len(self.names)

    def __post_init__(self) -> None:
        if not self.class_names:
            raise InputError("Predictions need at least one class name.")

    def save(self, folder: Path) -> None:
        """Write the predictions to a folder. A folder without the description, which is written last, is incomplete."""
        (folder / DESCRIPTION).unlink(missing_ok=True)
        shutil.rmtree(folder / PICTURES, ignore_errors=True)  # thumbnails of earlier predictions
        self._save_contents(folder)
        description = {
            "task": self.task,
            "class_names": self.class_names,
            "names": self.names,
            "about": self.about,
        }
        write_atomically(folder / DESCRIPTION, json.dumps(description, ensure_ascii=False))

    def _save_contents(self, folder: Path) -> None:
        raise NotImplementedError

    @classmethod
    def load_contents(cls, folder: Path) -> dict[str, Any]:
        raise NotImplementedError


@dataclass(kw_only=True)
class ClassPredictions(Predictions):
    """Predictions of a classifier for N images and K classes.

    Args:
        targets: class indices (N,) with one label per image, or 0 and 1 (N, K) with several labels per image.
        logits: logits (N, K). With one label per image they are logarithms of probabilities up to a constant per image.
    """

    targets: NDArray[Any]
    logits: NDArray[Any]

    task = "classification"

    def __post_init__(self) -> None:
        super().__post_init__()
        shape = (len(self.names), len(self.class_names))
        if self.logits.shape != shape or self.targets.shape not in (shape, shape[:1]):
            raise InputError(
                f"Logits of {shape[0]} samples and {shape[1]} classes must have the shape {shape} and targets "
                f"{shape[:1]} or {shape}, got {self.logits.shape} and {self.targets.shape}."
            )
        if not shape[0]:
            raise InputError("There are no predictions: a report needs at least one sample.")
        highest = 1 if self.multi_label else shape[1] - 1
        if self.targets.min() < 0 or self.targets.max() > highest:
            raise InputError(f"Targets must be from 0 to {highest}, got {self.targets.min()} to {self.targets.max()}.")
        bad = np.flatnonzero(~np.isfinite(self.logits).all(1))
        if len(bad):
            raise InputError(f"The prediction for {self.names[bad[0]]} is not finite.")

    @property
    def multi_label(self) -> bool:
        """Whether an image may have several labels."""
        return self.targets.ndim == 2

    def _save_contents(self, folder: Path) -> None:
        _save_arrays(folder, targets=self.targets, logits=compact(self.logits, self.multi_label))

    @classmethod
    def load_contents(cls, folder: Path) -> dict[str, Any]:
        return _load_arrays(folder, {"targets": "iub", "logits": "f"})


@dataclass(kw_only=True)
class PixelPredictions(Predictions):
    """Pixel counts of a segmentation network: a confusion matrix per image, as the list of its entries above 0.

    Args:
        image: the index of the image of each entry (E,).
        target: the ground-truth class of each entry (E,).
        predicted: the predicted class of each entry (E,).
        pixels: the number of pixels of each entry (E,).
    """

    image: NDArray[Any]
    target: NDArray[Any]
    predicted: NDArray[Any]
    pixels: NDArray[Any]

    task = "segmentation"

    def __post_init__(self) -> None:
        super().__post_init__()
        entries = (self.image, self.target, self.predicted, self.pixels)
        if len({array.shape for array in entries}) != 1 or self.image.ndim != 1:
            raise InputError(f"Entries must be four arrays of one length, got {[array.shape for array in entries]}.")
        limits = len(self.names), len(self.class_names), len(self.class_names)
        for name, array, limit in zip(("image", "target", "predicted"), entries, limits, strict=False):
            if len(array) and not (array.min() >= 0 and array.max() < limit):
                raise InputError(f"{name} must be from 0 to {limit - 1}, got {array.min()} to {array.max()}.")
        if not len(self.names):
            raise InputError("There are no predictions: a report needs at least one sample.")

    def confusion(self) -> NDArray[np.int64]:
        """Return the pixel counts (K, K) of all images, with ground truth in rows and predictions in columns."""
        classes = len(self.class_names)
        matrix = np.zeros((classes, classes), np.int64)
        np.add.at(matrix, (self.target, self.predicted), self.pixels)
        return matrix

    def _save_contents(self, folder: Path) -> None:
        _save_arrays(folder, image=self.image, target=self.target, predicted=self.predicted, pixels=self.pixels)

    @classmethod
    def load_contents(cls, folder: Path) -> dict[str, Any]:
        return _load_arrays(folder, dict.fromkeys(("image", "target", "predicted", "pixels"), "iu"))


@dataclass(kw_only=True)
class BoxPredictions(Predictions):
    """Detections and ground truth in the formats of COCO. `names` are the file names of `truth["images"]`, in order.

    Args:
        truth: the ground truth, with images, annotations and categories. The k-th class is the k-th category.
        results: a list of detections with image_id, category_id, score, bbox and, for masks, segmentation.
    """

    truth: dict[str, Any]
    results: list[dict[str, Any]]

    task = "detection"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.truth, dict) or not {"images", "annotations", "categories"} <= set(self.truth):
            raise InputError("The ground truth must be a COCO JSON with images, annotations and categories.")
        if not isinstance(self.results, list) or any("score" not in item for item in self.results):
            raise InputError("Detections must be a list in the results format of COCO, with a score for each.")
        known = {image["id"] for image in self.truth["images"]}
        if not known:
            raise InputError("There are no predictions: a report needs at least one image.")
        unknown = next((item["image_id"] for item in self.results if item["image_id"] not in known), None)
        if unknown is not None:
            raise InputError(f"There is a detection in the image {unknown!r}, which the ground truth does not have.")

    @property
    def masks(self) -> bool:
        """Whether there are instance masks as well as boxes."""
        both = (*self.truth["annotations"], *self.results)
        return bool(both) and all("segmentation" in item for item in both)

    def _save_contents(self, folder: Path) -> None:
        for name, content in ((TRUTH, self.truth), (DETECTIONS, self.results)):
            write_atomically(folder / name, json.dumps(content, separators=(",", ":")))

    @classmethod
    def load_contents(cls, folder: Path) -> dict[str, Any]:
        return {"truth": read_json(folder / TRUTH), "results": read_json(folder / DETECTIONS)}


KINDS: dict[str, type[Predictions]] = {kind.task: kind for kind in (ClassPredictions, PixelPredictions, BoxPredictions)}


def load_predictions(folder: str | Path) -> Predictions:
    """Load the predictions of a folder, such as RUN/reports/val.

    Raises:
        InputError: the folder has no predictions, or a file of it is invalid.
    """
    folder = Path(folder)
    if not (folder / DESCRIPTION).is_file():
        raise InputError(
            f"{folder} has no {DESCRIPTION}: give a folder that `glmix validate` or `glmix test` wrote, such as "
            "RUN/reports/val."
        )
    description = read_json(folder / DESCRIPTION)
    if not isinstance(description, dict) or description.get("task") not in KINDS:
        raise InputError(f"{folder / DESCRIPTION} must have a task, one of {', '.join(KINDS)}.")
    lists: list[Any] = [description.get(key) for key in ("class_names", "names")]
    if not all(isinstance(names, list) and all(isinstance(name, str) for name in names) for names in lists):
        raise InputError(f"{folder / DESCRIPTION} must have class_names and names, two lists of texts.")
    kind = KINDS[description["task"]]
    about = description.get("about")
    try:
        return kind(
            class_names=lists[0],
            names=lists[1],
            about=about if isinstance(about, dict) else {},
            **kind.load_contents(folder),
        )
    except InputError as error:
        raise InputError(f"{folder}: {error}") from error


def load_about(folder: Path) -> dict[str, Any]:
    """Return the metadata of the predictions in a folder; an empty dictionary if it has no predictions."""
    path = folder / DESCRIPTION
    description = read_json(path) if path.is_file() else None
    about = description.get("about") if isinstance(description, dict) else None
    return about if isinstance(about, dict) else {}


def compact(logits: NDArray[Any], multi_label: bool) -> NDArray[Any]:
    """Return logits (N, K) as they are stored: in float32, or in float16 if there are many classes.

    With one label per image, the highest logit of each image becomes 0. The probabilities of all classes then keep
    their relative precision, and the predicted class stays the same: other classes stay below 0.
    """
    if multi_label:
        return logits.astype(np.float32 if logits.shape[1] <= EXACT_CLASSES else np.float16)
    predicted = logits.argmax(1)
    rows = np.arange(len(logits))
    shifted = logits.astype(np.float32) - logits[rows, predicted, None].astype(np.float32)
    if logits.shape[1] <= EXACT_CLASSES:
        return shifted
    stored = np.maximum(shifted, np.finfo(np.float16).min).astype(np.float16)
    stored[stored == 0] = -np.finfo(np.float16).smallest_subnormal
    stored[rows, predicted] = 0
    return stored


def read_json(path: Path) -> Any:
    """Return the content of a JSON file. Raise InputError, with the file name, if it is not JSON."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise InputError(f"There is no file {path}.") from error
    except ValueError as error:
        raise InputError(f"{path} is not valid JSON ({error}).") from error


def sample_names(names: Sequence[str | None]) -> list[str]:
    """Return the names of samples, with the index in place of missing ones."""
    return [str(index) if name is None else name for index, name in enumerate(names)]


def _save_arrays(folder: Path, **arrays: NDArray[Any]) -> None:
    with atomic_write(folder / ARRAYS) as part, part.open("wb") as file:
        np.savez(file, allow_pickle=False, **arrays)


def _load_arrays(folder: Path, kinds: Mapping[str, str]) -> dict[str, Any]:
    """Return the arrays of a folder by name, with checked kinds (numpy's dtype.kind)."""
    path = folder / ARRAYS
    try:
        with np.load(path, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in kinds}
    except FileNotFoundError as error:
        raise InputError(f"There is no file {path}.") from error
    except (ValueError, KeyError, OSError, EOFError) as error:
        raise InputError(f"{path} is not a file of predictions ({error}).") from error
    for name, array in arrays.items():
        if array.dtype.kind not in kinds[name]:
            raise InputError(f"{path} has {name} of the type {array.dtype}.")
    return arrays
