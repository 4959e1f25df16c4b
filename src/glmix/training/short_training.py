"""Short trainings without checkpoints, started from Python: for the demo, weak segmentation and studies."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning.pytorch as L
import torch
from lightning.pytorch.callbacks import Callback

from ..errors import InputError
from ..models import GLNet, save_model
from .optim import OptimizerConfig, ScheduleConfig
from .process import quiet, standard_signal_exceptions
from .task import Task

__all__ = ["Epoch", "Recipe", "save_classifier", "train_on_scenes"]


@dataclass(frozen=True)
class Recipe:
    """Hyperparameters of a short training: AdamW with linear warm-up and a cosine learning rate schedule.

    Args:
        epochs: number of epochs.
        lr: peak learning rate. It is not scaled with the batch size.
        warmup: fraction of the training that is warm-up.
        weight_decay: weight decay. Norms, biases and slot scales have none.
        clip: maximum gradient norm.
    """

    epochs: int = 12
    lr: float = 2e-3
    warmup: float = 0.2
    weight_decay: float = 0.05
    clip: float = 5.0

    def __post_init__(self) -> None:
        if self.epochs < 1:
            raise InputError(f"epochs must be at least 1, got {self.epochs}.")
        if not self.lr > 0:
            raise InputError(f"lr must be above 0, got {self.lr}.")
        if not self.clip > 0:
            raise InputError(f"clip must be above 0, got {self.clip}.")
        if not 0 <= self.warmup < 1:
            raise InputError(f"warmup must be a fraction of the training, from 0 to below 1, got {self.warmup}.")

    def task_arguments(self, seed: int) -> dict[str, Any]:
        """Return the arguments of a `Task` for this recipe: optimizer, schedule and seed."""
        return {
            "optimizer": OptimizerConfig(lr=self.lr, base_batch=None, weight_decay=self.weight_decay),
            "schedule": ScheduleConfig(warmup_epochs=self.warmup * self.epochs),
            "seed": seed,
        }


@dataclass(frozen=True)
class Epoch:
    """Losses and validation score at the end of an epoch.

    Args:
        number: number of the epoch, from 1.
        train_loss: mean training loss over the batches of the epoch.
        val_loss: validation loss.
        score: validation score, the metric `Task.score_name`, such as accuracy, from 0 to 1.
        seconds: time since the start of the training.
    """

    number: int
    train_loss: float
    val_loss: float
    score: float
    seconds: float


def train_on_scenes(
    task: Task,
    data: L.LightningDataModule,
    recipe: Recipe,
    *,
    callbacks: Sequence[Callback] = (),
    every_epoch: bool = True,
) -> list[Epoch]:
    """Train a task, on a CUDA device if there is one, and return the results of the validated epochs.

    Args:
        task: task to train, with the arguments of `Recipe.task_arguments`.
        data: data module.
        recipe: number of epochs and gradient clipping; the rest is in the arguments of the task.
        callbacks: callbacks of the trainer.
        every_epoch: validate after every epoch; otherwise only after the last epoch.
    """
    history = _History()
    with quiet(), standard_signal_exceptions():
        trainer = L.Trainer(
            accelerator="cuda" if torch.cuda.is_available() else "cpu",
            devices=1,
            max_epochs=recipe.epochs,
            check_val_every_n_epoch=1 if every_epoch else recipe.epochs,
            gradient_clip_val=recipe.clip,
            num_sanity_val_steps=0,
            callbacks=[history, *callbacks],
            enable_progress_bar=any(isinstance(callback, L.callbacks.ProgressBar) for callback in callbacks),
            enable_checkpointing=False,
            enable_model_summary=False,
            logger=False,
            use_distributed_sampler=False,
        )
        trainer.fit(task, data)
    return history.epochs


def save_classifier(model: GLNet, folder: Path, data: Any) -> None:
    """Save a trained classifier with `save_model`, with the classes and the images of its data module in its config."""
    model.pretrained_cfg.update(
        num_classes=data.num_classes,
        label_names=data.class_names,
        input_size=data.input_size,
        pool_size=None,
        crop_pct=1.0,
        mean=data.mean,
        std=data.std,
    )
    save_model(model.cpu(), folder)


class _History(Callback):
    """Callback that collects an `Epoch` per validated epoch."""

    def __init__(self) -> None:
        self.epochs: list[Epoch] = []
        self._losses: list[float] = []
        self._start_time = 0.0

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._start_time = time.perf_counter()

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, *args: Any) -> None:
        assert isinstance(pl_module, Task)
        assert pl_module.last_loss is not None
        self._losses.append(float(pl_module.last_loss))

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        losses, self._losses = self._losses, []
        assert isinstance(pl_module, Task)
        if (trainer.current_epoch + 1) % (trainer.check_val_every_n_epoch or 1):
            return
        scores = trainer.callback_metrics
        self.epochs.append(
            Epoch(
                number=trainer.current_epoch + 1,
                train_loss=sum(losses) / len(losses),
                val_loss=float(scores["val/loss"]),
                score=float(scores[f"val/{pl_module.score_name}"]),
                seconds=time.perf_counter() - self._start_time,
            )
        )
