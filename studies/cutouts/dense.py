"""Segmentation and detection of the groups: a GLNet compared with other small backbones, in equal CPU time."""

from pathlib import Path
from typing import Any

import torch
from torchmetrics.functional.classification import multiclass_confusion_matrix

from glmix.data.detection.datamodule import CocoData
from glmix.data.detection.transforms import DetectionTransform
from glmix.data.segmentation.datamodule import MaskData, MaskSource
from glmix.data.segmentation.transforms import MaskTransformConfig
from glmix.files import atomic_write
from glmix.tasks.detection import Detection, DetectorConfig
from glmix.tasks.detection.metrics import CocoScores
from glmix.tasks.segmentation.inference import label_map, segment
from glmix.tasks.segmentation.metrics import scores_of
from glmix.tasks.segmentation.task import Segmentation
from studies.cutouts.training import Budget, once, settings, train

__all__ = ["BACKBONES", "TASKS", "detection", "mask_data", "segmentation", "segmentation_task"]

SIZE = 96
BATCH = 8
# name of the row -> (model, arguments)
BACKBONES: dict[str, tuple[str, dict[str, Any]]] = {
    "test_glnet": ("test_glnet", {}),
    "resnet18": ("resnet18", {}),
    "convnext_atto": ("convnext_atto", {}),
}
DECODER = {"decoder_pyramid_channels": 64, "decoder_segmentation_channels": 32, "decoder_dropout": 0.0}
DETECTOR: dict[str, Any] = {"channels": 64, "frozen_statistics": False, "max_detections": 20}


def mask_data(root: Path, seed: int) -> MaskData:
    """Return the images of several objects with their masks."""
    source = MaskSource(root=str(root / "voc"), layout="voc", test="test", check=0)
    transforms = MaskTransformConfig(resize=(SIZE, SIZE), scale=(0.8, 1.25), crop=SIZE, category_max_ratio=1.0)
    return MaskData(source, transforms, batch_size=BATCH, eval_batch_size=BATCH, num_workers=0, seed=seed)


def segmentation_task(name: str, steps: int, seed: int) -> Segmentation:
    """Return the task that trains a network of `BACKBONES` with an FPN decoder."""
    model, model_args = BACKBONES[name]
    return Segmentation(
        model=model, model_args=model_args, decoder="fpn", decoder_args=DECODER, **settings(steps, seed, lr=1e-3)
    )


def segmentation(root: Path, results: Path, name: str, seed: int, budget: Budget) -> None:
    """Train a segmentation network and measure its mean IoU on the test split, unless its result exists.

    Args:
        root: folder of the data set.
        results: folder of the results.
        name: a key of `BACKBONES`.
        seed: seed of the weights and of the training.
        budget: CPU time of the training.
    """

    def make(steps: int) -> tuple[Segmentation, MaskData]:
        return segmentation_task(name, steps, seed), mask_data(root, seed)

    def measure() -> dict[str, Any]:
        steps = budget.steps(name, make)
        task, training = make(steps)
        times = train(task, training, steps)
        test = mask_data(root, seed)
        test.setup("test")
        network = task.model.eval()
        assert test.num_classes is not None
        confusion = torch.zeros(test.num_classes, test.num_classes, dtype=torch.long)
        for images, masks in test.test_dataloader():
            found = label_map(segment(network, images), tuple(masks.shape[1:]))
            confusion += multiclass_confusion_matrix(found, masks, len(confusion))
        scores = scores_of(confusion)
        with atomic_write(results / "networks" / f"segmentation-{name}-seed{seed}.pt") as part:
            torch.save(task.model.state_dict(), part)
        return {
            "backbone": name,
            "seed": seed,
            "parameters": sum(parameter.numel() for parameter in network.parameters()),
            **times,
            "mean_iou": float(scores.mean_iou),
            "iou": dict(zip(test.class_names or [], scores.iou.tolist(), strict=True)),
            "foreground_iou": float(_foreground(confusion)),
        }

    once(results / "segmentation" / f"{name}-seed{seed}.json", measure)


def box_data(root: Path, seed: int) -> CocoData:
    """Return the images of several objects with their boxes."""
    return CocoData(
        str(root / "coco"),
        test_images="test2017",
        test_annotations="annotations/instances_test2017.json",
        masks=False,
        keep_empty=True,
        transforms=DetectionTransform(min_sizes=(SIZE,), max_size=SIZE),
        batch_size=BATCH,
        eval_batch_size=BATCH,
        num_workers=0,
        seed=seed,
    )


def detection_task(name: str, steps: int, seed: int) -> Detection:
    """Return the task that trains a RetinaNet with a network of `BACKBONES`."""
    model, model_args = BACKBONES[name]
    detector = DetectorConfig("retinanet", min_size=SIZE, max_size=SIZE, **DETECTOR)
    return Detection(model=model, model_args=model_args, detector=detector, **settings(steps, seed, lr=1e-3))


def detection(root: Path, results: Path, name: str, seed: int, budget: Budget) -> None:
    """Train a RetinaNet and measure its average precision on the test split, unless its result exists.

    Args:
        root: folder of the data set.
        results: folder of the results.
        name: a key of `BACKBONES`.
        seed: seed of the weights and of the training.
        budget: CPU time of the training.
    """

    def make(steps: int) -> tuple[Detection, CocoData]:
        return detection_task(name, steps, seed), box_data(root, seed)

    def measure() -> dict[str, Any]:
        steps = budget.steps(f"{name}, detection", make)
        task, training = make(steps)
        times = train(task, training, steps)
        test = box_data(root, seed)
        test.setup("test")
        network = task.model.eval()
        scores = CocoScores(test.class_names or [], masks=False)
        with torch.inference_mode():
            for images, targets in test.test_dataloader():
                scores.update(network(images), targets)
        with atomic_write(results / "networks" / f"detection-{name}-seed{seed}.pt") as part:
            torch.save(network.state_dict(), part)
        parameters = sum(parameter.numel() for parameter in network.parameters())
        return {"backbone": name, "seed": seed, "parameters": parameters, **times, **scores.compute()}

    once(results / "detection" / f"{name}-seed{seed}.json", measure)


TASKS = {"segmentation": segmentation, "detection": detection}


def _foreground(confusion: torch.Tensor) -> torch.Tensor:
    """Return the IoU of objects and background, without the groups: the share of objects that are found at all."""
    inside = confusion[1:, 1:].sum()
    return inside / (confusion.sum() - confusion[0, 0])
