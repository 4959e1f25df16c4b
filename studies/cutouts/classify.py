"""Classification of groups: with and without training on generated scenes, and with a teacher, in equal CPU time."""

from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

import timm
import torch
from torch import nn

from glmix.data.classification.datamodule import ImageData, ScenesData
from glmix.data.classification.source import ImageSource
from glmix.data.classification.transforms import TransformConfig
from glmix.data.scenes import SceneConfig
from glmix.errors import InputError
from glmix.files import atomic_write
from glmix.tasks import Classification
from glmix.tasks.classification.distillation import Teacher, TeacherConfig
from studies.cutouts.teacher import model_name
from studies.cutouts.training import Budget, features_of, linear_probe, once, settings, train

__all__ = ["METHODS", "classify", "network_file", "teacher_probe"]

MODEL = "test_glnet"
BATCH = 32
TEACHER_SIZE = 96  # input of the teacher in distillation, the size of the image files
PROBE_SIZE = 128  # input of the teacher in its linear probe
# first training -> its data; the second training, on the labelled photographs, starts from its weights
METHODS = {
    "random": "random weights",
    "scratch": "labels",
    "twice": "labels, twice the time",
    "distilled": "teacher on unlabelled crops, then labels",
    "scenes": "generated scenes, then labels",
}


def network_file(results: Path, method: str, seed: int) -> Path:
    """Return the file with the weights of a trained network."""
    return results / "networks" / f"{method}-seed{seed}.pt"


def labelled(root: Path, size: int, seed: int = 0) -> ImageData:
    """Return the labelled photographs, with one object per image."""
    return ImageData(
        ImageSource(root=str(root / "classification"), test="test"),
        _transforms(size),
        batch_size=BATCH,
        eval_batch_size=50,
        num_workers=0,
        seed=seed,
    )


def unlabelled(root: Path, size: int, seed: int) -> ImageData:
    """Return the crops without labels."""
    return ImageData(
        ImageSource(root=str(root / "unlabelled"), reader="images"),
        _transforms(size),
        batch_size=BATCH,
        num_workers=0,
        seed=seed,
    )


def _transforms(size: int) -> TransformConfig:
    return TransformConfig(size=size, scale=(0.5, 1.0), auto_augment=None, color_jitter=0.2, erasing=0.0, crop=1.0)


def classify(root: Path, results: Path, teacher: Path, method: str, seed: int, size: int, budget: Budget) -> None:
    """Train and evaluate a network, unless its result exists.

    Args:
        root: folder of the data set.
        results: folder of the results.
        teacher: weights of the teacher.
        method: a key of `METHODS`.
        seed: seed of the weights and of the training.
        size: side of the network input in pixels.
        budget: CPU time of each training.
    """
    if method not in METHODS:
        raise InputError(f"The method must be one of {', '.join(METHODS)}, got {method!r}.")

    def measure() -> dict[str, Any]:
        data = labelled(root, size)
        data.setup()
        result: dict[str, Any] = {"method": method, "seed": seed, "size": size, "model": MODEL, "trainings": []}
        start: Path | None = None
        if method == "random":
            torch.manual_seed(seed)
            return {**result, "features": linear_probe(timm.create_model(MODEL, num_classes=data.num_classes), data)}
        if method not in ("scratch", "twice"):
            kind, make = _first_training(method, root, teacher, seed, size)
            network, times = _train(kind, make, budget)
            result["trainings"].append({"kind": kind, **times})
            result["features"] = linear_probe(network, data)
            start = network_file(results, f"{method}-first", seed)
            with atomic_write(start) as part:
                torch.save(network.state_dict(), part)

        def make_second(steps: int) -> tuple[Classification, ImageData]:
            checkpoint = None if start is None else str(start)
            return Classification(model=MODEL, checkpoint=checkpoint, **settings(steps, seed)), labelled(
                root, size, seed
            )

        network, times = _train("labels", make_second, budget, 2 if method == "twice" else 1)
        result["trainings"].append({"kind": "labels", **times})
        with atomic_write(network_file(results, method, seed)) as part:
            torch.save(network.state_dict(), part)
        _, logits, labels = features_of(network, data.eval_dataloader("test"))
        return {**result, "accuracy": float((logits.argmax(1) == labels).mean()), "final": linear_probe(network, data)}

    found = once(results / "classify" / f"{method}-seed{seed}.json", measure)
    if found["size"] != size:
        raise InputError(
            f"The results in {results} are of --size {found['size']}, not {size}: choose another folder with --results."
        )
    if method != "random":
        once(
            results / "train" / f"{method}-seed{seed}.json", lambda: _train_accuracy(root, results, method, seed, size)
        )


def _train_accuracy(root: Path, results: Path, method: str, seed: int, size: int) -> dict[str, Any]:
    """Return the accuracy of a trained network on every fourth batch of the training images, without augmentation."""
    data = labelled(root, size)
    data.setup()
    network = timm.create_model(MODEL, num_classes=data.num_classes)
    network.load_state_dict(torch.load(network_file(results, method, seed), weights_only=True))
    _, logits, labels = features_of(network, islice(data.eval_dataloader("train"), 0, None, 4))
    return {"images": len(labels), "accuracy": float((logits.argmax(1) == labels).mean())}


def _train(
    kind: str, make: Callable[[int], Any], budget: Budget, times_budget: int = 1
) -> tuple[nn.Module, dict[str, Any]]:
    steps = times_budget * budget.steps(kind, make)
    task, data = make(steps)
    times = train(task, data, steps)
    return task.model, times


def _first_training(
    method: str, root: Path, teacher: Path, seed: int, size: int
) -> tuple[str, Callable[[int], tuple[Classification, Any]]]:
    """Return the name of the first training of a method, and the function that makes its task and data."""

    def scenes(steps: int) -> tuple[Classification, ScenesData]:
        config = SceneConfig(size=size, objects=(1, 1), shapes=("disc", "cross", "ring"))
        data = ScenesData(config, train_count=2000, val_count=10, batch_size=BATCH, seed=seed)
        return Classification(model=MODEL, **settings(steps, seed)), data

    def distillation(steps: int) -> tuple[Classification, ImageData]:
        config = TeacherConfig(
            checkpoint=str(teacher), model=model_name(0), size=(TEACHER_SIZE, TEACHER_SIZE), feature_weight=1.0
        )
        return Classification(model=MODEL, teacher=config, **settings(steps, seed)), unlabelled(root, size, seed)

    return ("scenes", scenes) if method == "scenes" else ("teacher", distillation)


def teacher_probe(root: Path, results: Path, teacher: Path) -> None:
    """Evaluate the linear probe of the teacher, unless its result exists."""

    def measure() -> dict[str, Any]:
        network = Teacher(TeacherConfig(checkpoint=str(teacher), model=model_name(0))).network
        cfg = timm.data.resolve_model_data_config(network)
        data = labelled(root, PROBE_SIZE)
        data.transforms = TransformConfig(size=PROBE_SIZE, crop=1.0, mean=cfg["mean"], std=cfg["std"])
        data.setup()
        return {"model": model_name(0), "size": PROBE_SIZE, "features": linear_probe(network, data)}

    once(results / "classify" / "teacher.json", measure)
