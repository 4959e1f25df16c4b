"""Image classification with one label or several labels per image."""

from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from timm.data.mixup import Mixup
from torch import Tensor, nn
from torchmetrics import MeanMetric, Metric, MetricCollection
from torchmetrics.classification import MulticlassAccuracy, MultilabelAveragePrecision

from ...compat import attached_trainer
from ...errors import InputError
from ...training.task import Task
from ...training.weights import INFO
from .distillation import Distillation, Teacher, TeacherConfig
from .losses import ClassWeights, class_weights, training_loss
from .threshold import F1AtThreshold

__all__ = ["Classification", "MixConfig"]


@dataclass
class MixConfig:
    """Configuration of timm's mixup and cutmix.

    Args:
        mixup: alpha of the Beta distribution of mixup; 0 disables mixup.
        cutmix: alpha of the Beta distribution of cutmix; 0 disables cutmix.
        prob: probability of mixing a batch.
        switch_prob: probability of cutmix instead of mixup if both are enabled.
        mode: one mixing ratio per `batch`, per `pair` of images or per image (`elem`).
    """

    mixup: float = 0.8
    cutmix: float = 1.0
    prob: float = 1.0
    switch_prob: float = 0.5
    mode: str = "batch"


class Classification(Task):
    """Lightning module for image classification.

    A batch is `(images, targets)`: images (B, C, H, W), and class indices (B,), soft labels (B, K) with a sum of 1, or,
    with `multi_label`, a 0 or 1 per class (B, K).

    Args:
        mix: mixup and cutmix; None disables both.
        smoothing: label smoothing.
        multi_label: images have several labels: train with binary cross-entropy, evaluate mean average precision and
            F1.
        class_weights: weights of the classes in the training loss: `balanced`, a weight for each class name, or weights
            in the order of the classes; with `multi_label` they are weights of the positive labels. None for no
            weights.
        threshold: with `multi_label`, threshold on the probabilities for F1 and predictions; None chooses the one with
            the highest macro F1 on the validation data.
        teacher: distil a teacher; None trains with labels only. Data without labels need it.
        kwargs: arguments of `Task`.
    """

    has_resizing = True

    def __init__(
        self,
        mix: MixConfig | None = None,
        smoothing: float = 0.0,
        multi_label: bool = False,
        class_weights: ClassWeights | None = None,
        threshold: float | None = None,
        teacher: TeacherConfig | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if multi_label and mix is not None:
            raise InputError("mix (mixup, cutmix) needs one label per image: set mix to null, or multi_label to false.")
        if threshold is not None and not (multi_label and 0 < threshold < 1):
            raise InputError(
                f"threshold must be above 0 and below 1, and needs multi_label, got {threshold} with multi_label "
                f"{str(multi_label).lower()}."
            )
        self.mix_config = mix
        self.class_weights = class_weights
        self.fixed_threshold = threshold
        self.thresholds: dict[str, float] = {}  # by network suffix, from the last validation
        self.smoothing = smoothing
        self.multi_label = multi_label
        self.mix: Mixup | None = None
        self.teacher_config = teacher
        self.teacher: Teacher | None = None
        self.distillation: Distillation | None = None
        self._last_images: Tensor | None = None

    @property
    def labelled(self) -> bool:
        """Whether the images have labels."""
        return bool(getattr(self._datamodule(), "labelled", True))

    def configure_model(self) -> None:
        if self._built:
            return
        trainer = attached_trainer(self)
        # a test of labelled images needs no teacher
        if self.teacher_config is not None and not (self.labelled and trainer is not None and trainer.evaluating):
            self.teacher = Teacher(self.teacher_config)
        super().configure_model()

    def _resolve_classes(self) -> int:
        if self.labelled:
            return super()._resolve_classes()
        if self.teacher is None:
            raise InputError("The images have no labels, so the training needs a teacher: set model.teacher.")
        classes = self.num_classes or self.teacher.num_classes
        if not classes:
            raise InputError("Neither the images nor the teacher have classes: set model.num_classes.")
        return classes

    def extra_parameters(self) -> list[nn.Parameter]:
        return [] if self.distillation is None else list(self.distillation.parameters())

    def build(self, num_classes: int) -> nn.Module:
        model: Any = super().build(num_classes)
        model.multi_label = self.multi_label
        classifier: nn.Module = model
        return classifier

    def build_args(self) -> dict[str, Any]:
        return {"multi_label": True} if self.multi_label else {}

    def check_data(self, data: Any) -> None:
        super().check_data(data)
        multi_label = getattr(data, "multi_label", None)
        if multi_label is not None and multi_label != self.multi_label:
            labels = "several labels" if multi_label else "one label"
            raise InputError(
                f"model.multi_label is {str(self.multi_label).lower()}, but {type(data).__name__} gives {labels} per "
                f"image: set it to {str(multi_label).lower()}."
            )
        if getattr(data, "soft_targets", False) and self.mix_config is not None:
            raise InputError(
                "mix (mixup, cutmix) needs one label per image, but the data have scores: set mix to null."
            )
        if self.teacher is not None:
            assert self.num_classes is not None
            names = getattr(data, "class_names", None)
            mean, std = (getattr(data, name, None) for name in ("mean", "std"))
            self.teacher.check(self.num_classes, names, mean, std, self.labelled)
            if self.teacher.config.feature_weight and self.device_mesh is not None:
                raise InputError("Features cannot be distilled with sharded weights: set teacher.feature_weight to 0.")

    def configure_metrics(self) -> None:
        classes = self.num_classes
        assert classes is not None
        if self.teacher is not None:
            data = self._datamodule()
            self.distillation = Distillation(self.teacher, self.model, self.multi_label, data.mean, data.std)
        score = "mAP" if self.multi_label else "top1"
        metrics: dict[str, Metric | MetricCollection]
        if not self.labelled:
            assert self.distillation is not None
            score = self.distillation.score_name
            metrics = {score: MeanMetric()}
        elif self.multi_label:
            metrics = {score: MultilabelAveragePrecision(classes), "f1": F1AtThreshold(classes)}
        else:
            # micro: accuracy over all images, not the mean of the classes' accuracies
            metrics = {"top1": MulticlassAccuracy(classes, average="micro")}
            if classes > 5:
                metrics["top5"] = MulticlassAccuracy(classes, top_k=5, average="micro")
        self.score_name = score
        collection = MetricCollection(metrics)
        self.metrics = nn.ModuleDict({f"of{s}": collection.clone() for s in self.networks()})
        self.losses = nn.ModuleDict({f"of{s}": MeanMetric() for s in self.networks()})
        if self.mix_config is not None:
            mix = self.mix_config
            self.mix = Mixup(
                mixup_alpha=mix.mixup,
                cutmix_alpha=mix.cutmix,
                prob=mix.prob,
                switch_prob=mix.switch_prob,
                mode=mix.mode,
                label_smoothing=self.smoothing,
                num_classes=classes,
            )
        data = self._datamodule()
        trainer = attached_trainer(self)
        weight = None
        if self.class_weights is not None and not (trainer is not None and trainer.evaluating):
            weight = class_weights(self.class_weights, data, classes, self.multi_label)
        self.train_loss = training_loss(
            multi_label=self.multi_label,
            soft_targets=getattr(data, "soft_targets", False),
            mixed=self.mix is not None,
            smoothing=self.smoothing,
            weight=weight,
        )
        self.val_loss: nn.Module = nn.BCEWithLogitsLoss() if self.multi_label else nn.CrossEntropyLoss()

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        images, targets = self.resized(batch[0], batch[1])
        if self.mix is not None:
            if len(images) % 2:
                raise InputError(
                    f"mixup and cutmix pair the images of a batch, so its size must be even, got {len(images)}."
                )
            images, targets = self.mix(images, targets)
        if self.distillation is None:
            return self.check_loss(self.train_loss(self.model(images), targets))
        outputs = self.distillation.student_outputs(self.model, images)
        label_loss = partial(_loss, self.train_loss, targets) if self.labelled else None
        return self.check_loss(self.distillation.loss(outputs, self.distillation.targets(images), label_loss))

    def evaluate(self, batch: Any) -> dict[str, Any]:
        images, targets = batch[0], batch[1]
        predictions: dict[str, Any] = {}
        if self.device_mesh is not None:
            self._last_images = images
            self._any_process(True)
        if not self.labelled:
            self._compare_with_teacher(images)
            return predictions
        for suffix, net in self.networks().items():
            logits = net(images).float()
            loss_targets = targets.float() if self.multi_label else targets
            self.losses[f"of{suffix}"].update(self.val_loss(logits, loss_targets), weight=len(images))  # type: ignore[operator]
            if self.multi_label:
                # torchmetrics would take logits from 0 to 1 for probabilities
                self.metrics[f"of{suffix}"].update(logits.sigmoid(), targets.long())  # type: ignore[operator]
            else:
                classes = targets.argmax(1) if targets.ndim == 2 else targets
                self.metrics[f"of{suffix}"].update(logits, classes)  # type: ignore[operator]
            predictions[suffix] = logits
        return predictions

    def _compare_with_teacher(self, images: Tensor) -> None:
        """Update the metrics of images without labels."""
        assert self.distillation is not None
        expected = self.distillation.targets(images)
        for suffix, net in self.networks().items():
            outputs = self.distillation.student_outputs(net, images)
            loss = self.distillation.loss(outputs, expected)
            self.losses[f"of{suffix}"].update(loss, weight=len(images))  # type: ignore[operator]
            self.metrics[f"of{suffix}"].update(self.distillation.score(outputs, expected))  # type: ignore[operator]

    def compute_scores(self) -> dict[str, dict[str, Any]]:
        self._join_other_forward_passes()
        scores: dict[str, dict[str, Any]] = {}
        for suffix in self.networks():
            metrics, loss = self.metrics[f"of{suffix}"], self.losses[f"of{suffix}"]
            if self.multi_label and self.labelled:
                metrics["f1"].threshold = self._evaluated_threshold(suffix)  # type: ignore[index]
            scores[suffix] = {**metrics.compute(), "loss": loss.compute()}  # type: ignore[operator]
            metrics.reset()  # type: ignore[operator]
            loss.reset()  # type: ignore[operator]
            if self.multi_label and self.labelled and not self._is_checked_or_tested():
                self.thresholds[suffix] = float(scores[suffix]["threshold"])
        return scores

    def _is_checked_or_tested(self) -> bool:
        """Return whether the trainer tests, or validates a few batches before the training."""
        trainer = attached_trainer(self)
        return trainer is not None and bool(trainer.testing or trainer.sanity_checking)

    def _evaluated_threshold(self, suffix: str) -> float | None:
        """Return the threshold for F1, or None to choose it on the evaluated data, which must be validation data."""
        if self.fixed_threshold is not None or not self._is_checked_or_tested():
            return self.fixed_threshold
        return self.thresholds.get(suffix, 0.5)

    def _any_process(self, value: bool) -> bool:
        """Return whether the value is true on any process."""
        flag = torch.tensor(int(value), device=self.device)
        torch.distributed.all_reduce(flag, op=torch.distributed.ReduceOp.MAX)
        return bool(flag)

    def _join_other_forward_passes(self) -> None:
        """Run dummy forward passes while other processes have batches left.

        A forward pass of sharded weights needs all processes, because it gathers the shards.
        """
        if self.device_mesh is None or self._last_images is None:
            return
        while self._any_process(False):
            for net in self.networks().values():
                net(self._last_images)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_save_checkpoint(checkpoint)
        if self.multi_label:
            checkpoint[INFO]["thresholds"] = dict(self.thresholds)
        if self.teacher is None:
            return
        checkpoint[INFO]["teacher"] = self.teacher.config.checkpoint
        if not self.labelled and self.teacher.config.soft_weight:
            checkpoint[INFO]["class_names"] = self.teacher.class_names

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        if self.teacher_config is not None and self.teacher is None:
            weights = checkpoint["state_dict"]
            checkpoint["state_dict"] = {k: v for k, v in weights.items() if not k.startswith("distillation.")}
        super().on_load_checkpoint(checkpoint)
        thresholds = checkpoint.get(INFO, {}).get("thresholds")
        self.thresholds = dict(thresholds) if isinstance(thresholds, dict) else {}

    def predict_step(self, batch: Any, batch_idx: int) -> Tensor:
        """Return the class probabilities (B, K), predicted by `best_network`."""
        logits: Tensor = self.best_network()(batch[0] if isinstance(batch, list | tuple) else batch).float()
        return logits.sigmoid() if self.multi_label else torch.softmax(logits, 1)


def _loss(function: nn.Module, targets: Tensor, logits: Tensor) -> Tensor:
    loss: Tensor = function(logits, targets)
    return loss
