"""Detectors learn to detect objects from scratch: those of four images in seconds, those of others in a minute."""

from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from torch import nn
from torchvision.ops import box_iou

from glmix.data.detection.datamodule import DetectionScenes
from glmix.data.scenes import SceneConfig
from glmix.tasks import Detection, DetectorConfig, OptimizerConfig, ScheduleConfig
from glmix.tasks.detection.models import build_detector
from tests.runs import trainer

SCENES = SceneConfig(size=64, shapes=("disc", "cross"), textures=("stripes",), objects=(1, 2), camouflage=0.0)
FEW = {
    "rpn_pre_nms_top_n_train": 100,
    "rpn_pre_nms_top_n_test": 100,
    "rpn_post_nms_top_n_train": 32,
    "rpn_post_nms_top_n_test": 32,
    "rpn_batch_size_per_image": 64,
    "box_batch_size_per_image": 16,
}


def train(kind: str, steps: int, lr: float, **options: Any) -> tuple[nn.Module, list[Any], list[Any], list[Any]]:
    """Train a detector on four images; return it, the images, their targets and the losses of each step."""
    torch.manual_seed(0)
    config = DetectorConfig(kind, channels=16, min_size=64, max_size=64, frozen_statistics=False, **options)  # type: ignore[arg-type]
    network = build_detector(config, timm.create_model("test_glnet", depths=(1, 1, 1, 1)), len(SCENES.class_names))
    masks = kind == "mask_rcnn"
    data = DetectionScenes(SCENES, train_count=4, val_count=1, batch_size=4, masks=masks, num_workers=0)
    data.setup("fit")
    images, targets = next(iter(data.train_dataloader()))
    optimizer = torch.optim.AdamW(network.train().parameters(), lr)
    losses = []
    for _ in range(steps):
        parts = network(images, targets)
        losses.append({name: float(loss.detach()) for name, loss in parts.items()})
        optimizer.zero_grad()
        sum(parts.values()).backward()
        optimizer.step()
    return network.eval(), images, targets, losses


def test_the_loss_of_a_retinanet_falls() -> None:
    *_, losses = train("retinanet", 40, 2e-3)
    assert all(losses[-1][name] < 0.75 * first for name, first in losses[0].items()), (losses[0], losses[-1])


def test_a_mask_rcnn_finds_the_objects_of_its_training_images() -> None:
    network, images, targets, _ = train("mask_rcnn", 60, 3e-3, box_features=32, anchor_scale=6.0, options=FEW)
    overlaps = []  # of each object with the detection of its class that fits best: boxes and masks
    with torch.inference_mode():
        detections = network(images)
    for target, detected in zip(targets, detections, strict=True):
        same = (target["labels"][:, None] == detected["labels"]) & (detected["scores"] > 0.3)
        boxes = box_iou(target["boxes"], detected["boxes"]) * same
        for truth, best, overlap in zip(target["masks"], boxes.argmax(1), boxes.amax(1), strict=True):
            mask = detected["masks"][best, 0] > 0.5
            masks = (mask & truth.bool()).sum() / (mask | truth.bool()).sum()
            overlaps.append((float(overlap), float(masks)))
    assert len(overlaps) == 7
    assert sum(box > 0.5 and mask > 0.5 for box, mask in overlaps) >= 6, overlaps


@pytest.mark.slow  # the tests above train detectors on four images
@pytest.mark.parametrize(
    ("kind", "steps", "bounds"),
    [("retinanet", 200, {"box_AP50": 0.25}), ("mask_rcnn", 120, {"box_AP50": 0.3, "mask_AP50": 0.2})],
)
def test_a_detector_learns(kind: str, steps: int, bounds: dict[str, float], tmp_path: Path) -> None:
    task = Detection(
        model="test_glnet",
        model_args={"depths": (1, 1, 1, 1)},
        detector=DetectorConfig(
            kind=kind,  # type: ignore[arg-type]
            channels=32,
            box_features=64,
            anchor_scale=None if kind == "retinanet" else 6.0,
            min_size=64,
            max_size=64,
            frozen_statistics=False,
            max_detections=10,
            options=FEW if kind == "mask_rcnn" else {},
        ),
        optimizer=OptimizerConfig(lr=2e-3, base_batch=None),
        schedule=ScheduleConfig(warmup_steps=20),
    )
    data = DetectionScenes(SCENES, train_count=8 * steps, val_count=64, batch_size=8, masks=kind == "mask_rcnn")
    trainer(tmp_path, every=1000, max_epochs=1, log_every_n_steps=50).fit(task, data)
    found = {name: float(task.trainer.callback_metrics[f"val/{name}"]) for name in bounds}
    assert all(found[name] > bound for name, bound in bounds.items()), found
