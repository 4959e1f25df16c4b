"""Distillation: train a classifier to give the outputs and the features of a teacher, a network with fixed weights."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...errors import InputError
from ...training.weights import build_model, load_weights
from ...weights import load

__all__ = ["Distillation", "Teacher", "TeacherConfig", "feature_distance", "soft_target_loss"]

Outputs = tuple[Tensor, Tensor | None]  # logits (B, K) and the last feature map (B, C, H, W)


@dataclass
class TeacherConfig:
    """Configuration of distillation: the teacher and the terms of the loss.

    The loss is `label_weight` * label loss + `soft_weight` * soft-target loss + `feature_weight` *
    feature distance. Training data without labels (`data.source.reader: images`) have no label loss.

    Args:
        checkpoint: weights of the teacher: a `.ckpt` of `glmix fit`, a folder for timm, or a file with the weights of
            `model`.
        model: name of the teacher in timm, for a file that does not contain it.
        model_args: arguments of `model`.
        num_classes: number of classes of `model`; None for the default of timm, which is 1000 for most models.
        size: height and width of the teacher's input, which images are resized to; None for its own input size.
        temperature: temperature of the soft targets. Logits are divided by it; the loss is multiplied by its square,
            so that the size of the gradient does not depend on it.
        label_weight: weight of the label loss.
        soft_weight: weight of the soft-target loss; student and teacher need the same classes for it.
        feature_weight: weight of the distance between the last feature maps of student and teacher.
    """

    checkpoint: str
    model: str | None = None
    model_args: dict[str, Any] = field(default_factory=dict)
    num_classes: int | None = None
    size: tuple[int, int] | None = None
    temperature: float = 1.0
    label_weight: float = 1.0
    soft_weight: float = 1.0
    feature_weight: float = 0.0

    def __post_init__(self) -> None:
        if not self.temperature > 0:
            raise InputError(f"teacher.temperature must be above 0, got {self.temperature}.")
        for name in ("label_weight", "soft_weight", "feature_weight"):
            if not getattr(self, name) >= 0:
                raise InputError(f"teacher.{name} must be 0 or more, got {getattr(self, name)}.")
        if not self.soft_weight and not self.feature_weight:
            raise InputError("teacher.soft_weight and teacher.feature_weight are both 0: set one of them above 0.")
        if self.size is not None and (len(self.size) != 2 or min(self.size) < 1):
            raise InputError(f"teacher.size must be a height and a width of at least 1 pixel, got {list(self.size)}.")


class Teacher:
    """Network with fixed weights, and the preprocessing that it needs.

    It is not an nn.Module, so that its weights are neither trained nor stored in checkpoints.

    Args:
        config: configuration of the teacher.

    Raises:
        InputError: if the checkpoint does not fit the model, or is not that of a classifier.
    """

    def __init__(self, config: TeacherConfig) -> None:
        self.config = config
        self.network = _load(config).eval().requires_grad_(False)
        cfg = timm.data.resolve_model_data_config(self.network)
        self.mean, self.std = torch.tensor(cfg["mean"]), torch.tensor(cfg["std"])
        self.size: tuple[int, int] = tuple(config.size or cfg["input_size"][1:])
        self.num_classes = int(getattr(self.network, "num_classes", 0))
        self.class_names: list[str] | None = (getattr(self.network, "pretrained_cfg", {}) or {}).get("label_names")
        if config.soft_weight and not self.num_classes:
            raise InputError(
                f"The teacher {config.checkpoint} has no classifier: set teacher.soft_weight to 0 and "
                "teacher.feature_weight above 0 to distil its features."
            )
        if config.feature_weight and not hasattr(self.network, "forward_intermediates"):
            raise InputError(f"The teacher {config.checkpoint} has no feature maps: set teacher.feature_weight to 0.")

    @torch.no_grad()
    def __call__(self, images: Tensor, mean: Any, std: Any) -> Outputs:
        """Return the logits and, with `feature_weight`, the last feature map, in float32.

        Args:
            images: images (B, 3, H, W), normalised with `mean` and `std`.
            mean: mean of each channel.
            std: standard deviation of each channel.
        """
        self.network.to(images.device)
        pixels = self.converted(images.float(), torch.as_tensor(mean), torch.as_tensor(std))
        logits, features = _outputs(self.network, pixels, self.config.feature_weight > 0)
        return logits.float(), None if features is None else features.float()

    def converted(self, images: Tensor, mean: Tensor, std: Tensor) -> Tensor:
        """Return images in the normalisation and the size of the teacher."""
        if not torch.equal(mean, self.mean) or not torch.equal(std, self.std):
            scale = (std / self.std).to(images.device)[:, None, None]
            shift = ((mean - self.mean) / self.std).to(images.device)[:, None, None]
            images = images * scale + shift
        if tuple(images.shape[2:]) != self.size:
            images = F.interpolate(images, self.size, mode="bicubic", antialias=True, align_corners=False)
        return images

    def check(self, classes: int, class_names: list[str] | None, mean: Any, std: Any, labelled: bool) -> None:
        """Raise InputError if the teacher does not fit the student or the data."""
        name = self.config.checkpoint
        if mean is None or std is None:
            raise InputError("Distillation needs mean and std of the data module, to convert images for the teacher.")
        if len(mean) != len(self.mean):
            raise InputError(f"The images have {len(mean)} channels, but the teacher {name} takes {len(self.mean)}.")
        if not self.config.soft_weight:
            return
        if classes != self.num_classes:
            raise InputError(
                f"The teacher {name} has {self.num_classes} classes, the student {classes}: soft targets need the same "
                f"classes. Set teacher.soft_weight to 0 and teacher.feature_weight above 0 to distil features only"
                + ("." if labelled else f", or model.num_classes to {self.num_classes}.")
            )
        theirs = self.class_names
        if theirs and class_names and list(theirs) != list(class_names):
            different = next(k for k in range(classes) if theirs[k] != class_names[k])
            raise InputError(
                f"Class {different} of the teacher {name} is {theirs[different]!r}, of the data "
                f"{class_names[different]!r}: soft targets need the same classes in the same order."
            )


class Distillation(nn.Module):
    """Loss of a student for the outputs of a teacher. It has the 1x1 projection of the student's features.

    Args:
        teacher: the teacher.
        student: the trained network.
        multi_label: images have several labels.
        mean: mean of each channel of the images.
        std: standard deviation of each channel of the images.
    """

    def __init__(self, teacher: Teacher, student: nn.Module, multi_label: bool, mean: Any, std: Any) -> None:
        super().__init__()
        self.teacher, self.multi_label, self.mean, self.std = teacher, multi_label, mean, std
        self.projection: nn.Module | None = None
        if teacher.config.feature_weight:
            if not hasattr(student, "forward_intermediates"):
                raise InputError(
                    f"The student {type(student).__name__} has no feature maps: set teacher.feature_weight to 0."
                )
            self.projection = nn.Conv2d(_feature_channels(student), _feature_channels(teacher.network), 1)

    @property
    def score_name(self) -> str:
        """Score for images without labels: the agreement with the teacher's labels, or the similarity of features."""
        return "agreement" if self.teacher.config.soft_weight else "similarity"

    def targets(self, images: Tensor) -> Outputs:
        """Return the outputs of the teacher for images (B, 3, H, W)."""
        return self.teacher(images, self.mean, self.std)

    def student_outputs(self, student: nn.Module, images: Tensor) -> Outputs:
        """Return the logits of the student and, with `feature_weight`, its projected features."""
        logits, features = _outputs(student, images, self.projection is not None)
        if self.projection is not None:
            features = self.projection(features)
        return logits, features

    def loss(self, outputs: Outputs, targets: Outputs, label_loss: Callable[[Tensor], Tensor] | None = None) -> Tensor:
        """Return the weighted sum of all terms of the loss.

        Args:
            outputs: result of `student_outputs`.
            targets: result of `targets`.
            label_loss: function from logits to the label loss; None for images without labels.
        """
        config = self.teacher.config
        logits, features = outputs
        terms = []
        if label_loss is not None and config.label_weight:
            terms.append(config.label_weight * label_loss(logits))
        if config.soft_weight:
            soft = soft_target_loss(logits, targets[0], config.temperature, self.multi_label)
            terms.append(config.soft_weight * soft)
        if features is not None and targets[1] is not None:
            terms.append(config.feature_weight * feature_distance(features, targets[1]).mean())
        return torch.stack(terms).sum()

    def score(self, outputs: Outputs, targets: Outputs) -> Tensor:
        """Return the score of each image (B,); see `score_name`."""
        if not self.teacher.config.soft_weight:
            assert outputs[1] is not None
            assert targets[1] is not None
            return 1 - feature_distance(outputs[1], targets[1])
        if self.multi_label:
            return ((outputs[0] > 0) == (targets[0] > 0)).float().mean(1)
        return (outputs[0].argmax(1) == targets[0].argmax(1)).float()


def _outputs(network: Any, images: Tensor, with_features: bool) -> Outputs:
    """Return the logits and the last feature map of a network of timm, in one forward pass."""
    if not with_features:
        return network(images), None
    final, [features] = network.forward_intermediates(images, indices=1, output_fmt="NCHW")
    return network.forward_head(final), features


def _feature_channels(network: Any) -> int:
    return int(network.feature_info[-1]["num_chs"])


def _load(config: TeacherConfig) -> nn.Module:
    if config.model is None or Path(config.checkpoint).is_dir() or config.checkpoint.endswith(".ckpt"):
        loaded = load(config.checkpoint, config.model)
        if loaded.task not in (None, "Classification", "TokenLabelling"):
            raise InputError(f"The teacher {config.checkpoint} is a {loaded.task} network: it must be a classifier.")
        return loaded.network
    options = {} if config.num_classes is None else {"num_classes": config.num_classes}
    classes = options.get("num_classes", 1000)
    network = build_model(config.model, config.model_args, classes)
    if load_weights(network, config.checkpoint) and config.soft_weight:
        raise InputError(
            f"The classifier in {config.checkpoint} is not for {classes} classes: set teacher.num_classes."
        )
    return network


def soft_target_loss(logits: Tensor, targets: Tensor, temperature: float, multi_label: bool) -> Tensor:
    """Return the soft-target loss of logits (B, K), given the logits of a teacher (B, K).

    With one label per image it is the Kullback-Leibler divergence of the softmax distributions, with several labels the
    binary cross-entropy for the sigmoid probabilities, both of logits divided by the temperature, and times its square.
    """
    logits, targets = logits.float() / temperature, targets / temperature
    if multi_label:
        loss = F.binary_cross_entropy_with_logits(logits, targets.sigmoid())
    else:
        loss = F.kl_div(logits.log_softmax(1), targets.log_softmax(1), reduction="batchmean", log_target=True)
    return temperature**2 * loss


def feature_distance(features: Tensor, targets: Tensor) -> Tensor:
    """Return the mean over positions of 1 - cosine of two feature maps, from 0 to 2, for each image (B,).

    Args:
        features: features of the student (B, C, H, W).
        targets: features of the teacher (B, C, h, w), without gradient; they are resized to the grid of the student.
    """
    if targets.shape[2:] != features.shape[2:]:
        targets = F.interpolate(targets, features.shape[2:], mode="bilinear", antialias=True, align_corners=False)
    return 1 - F.cosine_similarity(features.float(), targets, dim=1).mean((1, 2))
