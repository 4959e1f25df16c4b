"""Classification: one class an image, or several."""

from dataclasses import dataclass
from typing import Any

import torch
from timm.data.mixup import Mixup
from timm.loss import BinaryCrossEntropy, LabelSmoothingCrossEntropy, SoftTargetCrossEntropy
from torch import Tensor, nn
from torchmetrics import MeanMetric, Metric, MetricCollection
from torchmetrics.classification import MulticlassAccuracy, MultilabelAveragePrecision

from ...errors import InputError
from ...training.task import Task

__all__ = ["Classification", "MixConfig"]


@dataclass
class MixConfig:
    """Mixing of images and labels within a batch, by timm.

    Args:
        mixup: parameter of the Beta distribution of mixup's weights; 0 for no mixup.
        cutmix: the same of cutmix's areas; 0 for no cutmix.
        prob: probability that a batch is mixed at all.
        switch_prob: probability of cutmix where both are on.
        mode: one mixture a `batch`, a `pair` of images or an image (`elem`).
    """

    mixup: float = 0.8
    cutmix: float = 1.0
    prob: float = 1.0
    switch_prob: float = 0.5
    mode: str = "batch"


class Classification(Task):
    """Learn classes of images.

    Batches are `(images, targets)`: class numbers (B,), or 0 and 1 for every class (B, K) with `multi_label`.

    Args:
        mix: mixup and cutmix; None for neither.
        smoothing: label smoothing.
        multi_label: an image may have several classes: binary cross-entropy, mean average precision.
        kwargs: arguments of `Task`.
    """

    def __init__(
        self, mix: MixConfig | None = None, smoothing: float = 0.0, multi_label: bool = False, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        if multi_label and mix is not None:
            raise InputError("mix mixes one class an image with another: leave it out with multi_label.")
        self.mix_config = mix
        self.smoothing = smoothing
        self.multi_label = multi_label
        self.mix: Mixup | None = None
        self._last_images: Tensor | None = None

    def build(self, num_classes: int) -> nn.Module:
        model: Any = super().build(num_classes)
        model.multi_label = self.multi_label
        classifier: nn.Module = model
        return classifier

    def build_args(self) -> dict[str, Any]:
        return {"multi_label": True} if self.multi_label else {}

    def check_data(self, data: Any) -> None:
        super().check_data(data)
        several = getattr(data, "multi_label", None)
        if several is not None and several != self.multi_label:
            labels = "several labels" if several else "one label"
            raise InputError(
                f"model.multi_label is {str(self.multi_label).lower()}, but {type(data).__name__} gives {labels} an "
                f"image: set it to {str(several).lower()}."
            )

    def configure_metrics(self) -> None:
        classes = self.num_classes
        assert classes is not None
        score = "mAP" if self.multi_label else "top1"
        self.score_name = score
        metrics: dict[str, Metric | MetricCollection]
        if self.multi_label:
            metrics = {score: MultilabelAveragePrecision(classes)}
        else:
            # micro: the share of images, not the mean over classes
            metrics = {"top1": MulticlassAccuracy(classes, average="micro")}
            if classes > 5:
                metrics["top5"] = MulticlassAccuracy(classes, top_k=5, average="micro")
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
        self.train_loss: nn.Module = SoftTargetCrossEntropy()
        if self.multi_label:
            self.train_loss = BinaryCrossEntropy(smoothing=self.smoothing)
        elif self.mix is None:
            self.train_loss = LabelSmoothingCrossEntropy(self.smoothing) if self.smoothing else nn.CrossEntropyLoss()
        self.val_loss: nn.Module = nn.BCEWithLogitsLoss() if self.multi_label else nn.CrossEntropyLoss()

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        images, targets = batch[0], batch[1]
        if self.mix is not None:
            if len(images) % 2:
                raise InputError(
                    f"mixup and cutmix pair the images of a batch, whose size must be even: {len(images)}."
                )
            images, targets = self.mix(images, targets)
        return self.check_loss(self.train_loss(self.model(images), targets))

    def evaluate(self, batch: Any) -> None:
        images, targets = batch[0], batch[1]
        if self.device_mesh is not None:
            self._last_images = images
            self._any_process(True)
        for suffix, net in self.networks().items():
            logits = net(images).float()
            wanted = targets.float() if self.multi_label else targets
            self.losses[f"of{suffix}"].update(self.val_loss(logits, wanted), weight=len(images))  # type: ignore[operator]
            self.metrics[f"of{suffix}"].update(logits, targets.long())  # type: ignore[operator]

    def compute_scores(self) -> dict[str, dict[str, Any]]:
        self._join_other_forward_passes()
        scores: dict[str, dict[str, Any]] = {}
        for suffix in self.networks():
            metrics, loss = self.metrics[f"of{suffix}"], self.losses[f"of{suffix}"]
            scores[suffix] = {**metrics.compute(), "loss": loss.compute()}  # type: ignore[operator]
            metrics.reset()  # type: ignore[operator]
            loss.reset()  # type: ignore[operator]
        return scores

    def _any_process(self, here: bool) -> bool:
        flag = torch.tensor(int(here), device=self.device)
        torch.distributed.all_reduce(flag, op=torch.distributed.ReduceOp.MAX)
        return bool(flag)

    def _join_other_forward_passes(self) -> None:
        """Run dummy forward passes while other processes have batches left: sharded weights are gathered together."""
        if self.device_mesh is None or self._last_images is None:
            return
        while self._any_process(False):
            for net in self.networks().values():
                net(self._last_images)

    def predict_step(self, batch: Any, batch_idx: int) -> Tensor:
        logits: Tensor = self.best_network()(batch[0] if isinstance(batch, list | tuple) else batch).float()
        return logits.sigmoid() if self.multi_label else torch.softmax(logits, 1)
