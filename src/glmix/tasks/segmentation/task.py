"""Lightning module for semantic segmentation."""

from pathlib import Path
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn
from torchmetrics import MeanMetric
from torchmetrics.classification import MulticlassConfusionMatrix

from ...errors import InputError
from ...training.checkpoint_info import read_info
from ...training.task import Task
from ...training.weights import INFO, load_weights
from .inference import WHOLE, Inference, label_map, segment
from .metrics import scores_of
from .network import SegmentationNet

__all__ = ["IGNORE", "Segmentation", "pixel_cross_entropy"]

IGNORE = 255  # the ignore index: pixels that are excluded from loss and metrics


def pixel_cross_entropy(logits: Tensor, masks: Tensor) -> Tensor:
    """Return the mean cross-entropy of logits (B, K, H, W) and masks (B, H, W) without ignored pixels.

    The loss is 0 if all pixels are ignored.
    """
    total = F.cross_entropy(logits.float(), masks, ignore_index=IGNORE, reduction="sum")
    return total / (masks != IGNORE).sum().clamp_min(1)


class Segmentation(Task):
    """Lightning module for semantic segmentation.

    A batch is `(images, masks)`: images (B, 3, H, W), and masks (B, H, W) of class indices from 0 and the ignore index
    255. Evaluation batches may be two lists, and a mask may have another size than its image: predictions are resized
    to the size of the mask.

    Args:
        decoder: name of a decoder in segmentation_models.pytorch: `upernet`, `fpn`, `unet`, ...
        decoder_args: arguments of the decoder's class, such as decoder_channels.
        auxiliary: loss weight of an auxiliary head on the feature map of stride 16; 0 for no auxiliary head.
        dropout: channel dropout before the last layer.
        inference: inference settings of validation, testing and prediction; None: whole images without test-time
            augmentation.
        kwargs: arguments of `Task`. `model` is the backbone. `checkpoint` may hold the weights of the backbone or of a
            whole segmentation network.
    """

    score_name = "mIoU"
    model_is_backbone = True
    has_resizing = True

    def __init__(
        self,
        decoder: str = "upernet",
        decoder_args: dict[str, Any] | None = None,
        auxiliary: float = 0.0,
        dropout: float = 0.0,
        inference: Inference | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if auxiliary < 0:
            raise InputError(f"auxiliary is a loss weight and must be at least 0, got {auxiliary}.")
        if self.optimizer_config.layer_decay is not None:
            raise InputError(
                "optimizer.layer_decay is only supported in classification, not in segmentation: remove it."
            )
        self.decoder = decoder
        self.decoder_args = dict(decoder_args or {})
        self.auxiliary = auxiliary
        self.dropout = dropout
        self.inference = inference or WHOLE

    def build_args(self) -> dict[str, Any]:
        return {
            "decoder": self.decoder,
            "decoder_args": self.decoder_args,
            "auxiliary": self.auxiliary,
            "dropout": self.dropout,
        }

    def build(self, num_classes: int) -> nn.Module:
        whole = self.checkpoint is not None and _holds_whole_network(self.checkpoint)
        network = SegmentationNet(
            self.model_name,
            self.model_args,
            num_classes,
            self.decoder,
            self.decoder_args,
            auxiliary=self.auxiliary > 0,
            dropout=self.dropout,
            checkpoint=None if whole else self.checkpoint,
        )
        if whole:
            assert self.checkpoint is not None
            load_weights(network, self.checkpoint)
        return network

    def configure_model(self) -> None:
        if self.device_mesh is not None:
            raise InputError("Segmentation does not support sharded weights: set trainer.strategy to ddp or auto.")
        super().configure_model()

    def configure_metrics(self) -> None:
        assert self.num_classes is not None
        confusion = MulticlassConfusionMatrix(self.num_classes, ignore_index=IGNORE, validate_args=False)
        self.confusions = nn.ModuleDict({f"of{s}": confusion.clone() for s in self.networks()})
        self.losses = nn.ModuleDict({f"of{s}": MeanMetric() for s in self.networks()})

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        images, masks = self.resized(*batch)
        try:
            logits, aux_logits = self.model(images, auxiliary=True) if self.auxiliary else (self.model(images), None)
        except ValueError as error:
            if len(images) > 1 or "more than 1 value per channel" not in str(error):
                raise
            raise InputError(
                f"The decoder {self.decoder} has BatchNorm layers, which cannot train on a batch of one image: set "
                "data.batch_size to at least 2."
            ) from error
        loss = pixel_cross_entropy(logits, masks)
        if aux_logits is not None:
            loss = loss + self.auxiliary * pixel_cross_entropy(aux_logits, masks)
        return self.check_loss(loss)

    def evaluate(self, batch: Any) -> dict[str, Any]:
        images, masks = batch
        if isinstance(images, list):  # images of different sizes
            pairs = [(image.unsqueeze(0), mask.unsqueeze(0)) for image, mask in zip(images, masks, strict=True)]
        else:
            pairs = [(images, masks)]
        predictions: dict[str, Any] = {suffix: [] for suffix in self.networks()}
        for suffix, net in self.networks().items():
            for x, y in pairs:
                scores = segment(net, x, self.inference)
                labels = label_map(scores, tuple(y.shape[1:]))
                predictions[suffix] += labels
                self.confusions[f"of{suffix}"].update(labels, y)  # type: ignore[operator]
                if (y != IGNORE).any():
                    resized = F.interpolate(y.unsqueeze(1).float(), size=scores.shape[2:], mode="nearest-exact")
                    loss = pixel_cross_entropy(self._as_logits(scores), resized.squeeze(1).long())
                    self.losses[f"of{suffix}"].update(loss, weight=len(x))  # type: ignore[operator]
        return predictions

    def _as_logits(self, scores: Tensor) -> Tensor:
        """Return the scores of `segment` as logits: with test-time augmentation they are probabilities."""
        are_logits = self.inference.scales == (1.0,) and not self.inference.flip
        return scores if are_logits else scores.clamp_min(1e-12).log()

    def compute_scores(self) -> dict[str, dict[str, Any]]:
        data = getattr(self.trainer, "datamodule", None)
        names = getattr(data, "class_names", None) or [str(k) for k in range(self.num_classes or 0)]
        scores: dict[str, dict[str, Any]] = {}
        for suffix in self.networks():
            confusion, loss = self.confusions[f"of{suffix}"], self.losses[f"of{suffix}"]
            metrics = scores_of(confusion.compute())  # type: ignore[operator]
            scores[suffix] = {
                self.score_name: metrics.mean_iou,
                "pixel_accuracy": metrics.pixel_accuracy,
                "loss": loss.compute(),  # type: ignore[operator]
                **{f"IoU/{name}": value for name, value in zip(names, metrics.iou, strict=True)},
            }
            confusion.reset()  # type: ignore[operator]
            loss.reset()  # type: ignore[operator]
        return scores

    def predict_step(self, batch: Any, batch_idx: int) -> Tensor:
        """Return the class index of each pixel (B, H, W), predicted by `best_network`."""
        images = batch[0] if isinstance(batch, list | tuple) else batch
        return label_map(segment(self.best_network(), images, self.inference))

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_save_checkpoint(checkpoint)
        checkpoint[INFO]["resize"] = getattr(getattr(self.trainer, "datamodule", None), "resize", None)


def _holds_whole_network(path: str) -> bool:
    """Return whether a file is a checkpoint of a segmentation task, not the weights of a backbone."""
    return Path(path).suffix == ".ckpt" and bool(read_info(path)["task"] == "Segmentation")
