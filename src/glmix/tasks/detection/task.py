"""Lightning module for object detection and instance segmentation."""

import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor, nn

from ...errors import InputError
from ...models import GLNet
from ...models.restore import checked_arguments
from ...training.checkpoint_info import read_info
from ...training.task import Task
from ...training.weights import INFO, load_weights
from .backbones import build_backbone
from .metrics import CocoScores
from .models import DetectorConfig, build_detector

__all__ = ["Detection"]

# layers whose size is the number of classes
CLASSIFIERS = {
    "retinanet": ("head.classification_head.cls_logits",),
    "mask_rcnn": (
        "roi_heads.box_predictor.cls_score",
        "roi_heads.box_predictor.bbox_pred",
        "roi_heads.mask_predictor.mask_fcn_logits",
    ),
}


class Detection(Task):
    """Lightning module for detection with RetinaNet, or detection and instance segmentation with Mask R-CNN.

    A batch is `(images, targets)`, two lists: images (3, H, W), uint8 or float in [0, 1], and dictionaries. Training
    images are resized already, and their targets have boxes (n, 4) as x1 y1 x2 y2, labels (n,) from 1 and, for Mask
    R-CNN, masks (n, H, W). Evaluation images have their original size, and `CocoScores.update` describes their targets.

    Args:
        detector: configuration of the detector.
        kwargs: arguments of `Task`. `model` is the backbone: a GLNet, or another model of timm with feature maps.
            `checkpoint` may hold the weights of a GLNet backbone, or of a whole detector of the same kind.
    """

    score_name = "box_AP"
    model_is_backbone = True

    def __init__(self, detector: DetectorConfig | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if self.optimizer_config.layer_decay is not None:
            raise InputError("optimizer.layer_decay is only supported in classification, not in detection: remove it.")
        if self.model_args.get("in_chans", 3) != 3:
            channels = self.model_args["in_chans"]
            raise InputError(f"model.model_args.in_chans is {channels}, but detection needs RGB images: remove it.")
        if isinstance(detector, Mapping):  # from `build_args` of a checkpoint, which is untrusted
            hints = typing.get_type_hints(DetectorConfig)
            detector = DetectorConfig(**checked_arguments(dict(detector), hints, "The checkpoint", "detector"))
        self.detector = detector or DetectorConfig()

    def build_args(self) -> dict[str, Any]:
        return {"detector": self.detector.plain()}

    def build(self, num_classes: int) -> nn.Module:
        backbone = build_backbone(self.model_name, self.model_args)
        is_detector = self.checkpoint is not None and _holds_detector(self.checkpoint)
        if self.checkpoint is not None and not is_detector:
            if not isinstance(backbone, GLNet):
                raise InputError(
                    f"model.checkpoint must hold the weights of a GLNet or of a whole detector, but model is "
                    f"{self.model_name}, which takes `pretrained: true` in model.model_args."
                )
            load_weights(backbone, self.checkpoint)
        network = build_detector(self.detector, backbone, num_classes)
        kind = self.detector.kind
        pretrained_cfg: Any = {"architecture": f"{kind} on {self.model_name}", "classifier": CLASSIFIERS[kind]}
        network.pretrained_cfg = pretrained_cfg
        if self.checkpoint is not None and is_detector:
            load_weights(network, self.checkpoint)
        return network

    def configure_model(self) -> None:
        if self.device_mesh is not None:
            raise InputError("Detection does not support sharded weights: set trainer.strategy to ddp or auto.")
        super().configure_model()

    def on_fit_start(self) -> None:
        super().on_fit_start()
        has_weights = self.checkpoint or self.trainer.ckpt_path or self.model_args.get("pretrained")
        if self.detector.frozen_statistics and not has_weights:
            rank_zero_warn(
                "detector.frozen_statistics freezes the BatchNorm statistics of an untrained backbone: set "
                "model.checkpoint to pretrained weights, or model.detector.frozen_statistics to false."
            )

    def compile_parts(self) -> list[nn.Module]:
        network: Any = self.model
        return [network.backbone.pyramid]

    def configure_metrics(self) -> None:
        assert self.num_classes is not None
        data = self._datamodule()
        names = getattr(data, "class_names", None) or [f"class {k}" for k in range(1, self.num_classes + 1)]
        masks = self.detector.kind == "mask_rcnn"
        self.scores = {suffix: CocoScores(names, masks=masks) for suffix in self.networks()}

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        images, targets = batch
        losses: dict[str, Tensor] = self.model(images, targets)
        if self._is_log_step():
            logged = {f"train/loss_{name.removeprefix('loss_')}": loss.detach() for name, loss in losses.items()}
            self.log_dict(logged, on_step=True, on_epoch=False)
        return self.check_loss(torch.stack(list(losses.values())).sum())

    def evaluate(self, batch: Any) -> dict[str, Any]:
        images, targets = batch
        predictions = {suffix: net(images) for suffix, net in self.networks().items()}
        for suffix, found in predictions.items():
            self.scores[suffix].update(found, targets)
        return predictions

    def compute_scores(self) -> dict[str, dict[str, Any]]:
        return {suffix: scores.compute() for suffix, scores in self.scores.items()}

    def predict_step(self, batch: Any, batch_idx: int) -> list[dict[str, Tensor]]:
        """Return boxes, labels, scores and, with Mask R-CNN, masks per image, predicted by `best_network`."""
        images = batch[0] if isinstance(batch, list | tuple) else batch
        predictions: list[dict[str, Tensor]] = self.best_network()(images)
        return predictions

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_save_checkpoint(checkpoint)
        checkpoint[INFO]["category_ids"] = getattr(getattr(self.trainer, "datamodule", None), "category_ids", None)


def _holds_detector(path: str) -> bool:
    """Return whether a file is a checkpoint of a detection task, not the weights of a backbone."""
    return Path(path).suffix == ".ckpt" and bool(read_info(path)["task"] == "Detection")
