"""Trainings of equal CPU time, their results in files, and linear probes."""

import json
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import lightning.pytorch as L
import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from glmix.bench.machine import describe_machine
from glmix.errors import InputError
from glmix.files import write_atomically
from glmix.inference import probes
from glmix.training.optim import OptimizerConfig, ScheduleConfig
from glmix.training.process import quiet, standard_signal_exceptions
from glmix.training.task import Task

__all__ = ["Budget", "features_of", "linear_probe", "once", "settings", "train"]

MEASURED_STEPS = 24  # steps of the short training that measures the time per step
SKIPPED_STEPS = 4  # slower first steps, which are not counted
Features = NDArray[np.float32]


def once(file: Path, measure: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """Return the result in a JSON file, or measure it and write the file.

    Raises:
        InputError: if the file is malformed.
    """
    if not file.is_file():
        write_atomically(file, json.dumps(measure(), indent=1) + "\n")
    try:
        result: dict[str, Any] = json.loads(file.read_text())
    except ValueError as error:
        raise InputError(f"{file} is not a result of this study ({error}): delete it to measure it again.") from error
    return result


def settings(steps: int, seed: int, lr: float = 2e-3) -> dict[str, Any]:
    """Return the arguments of a task: AdamW, a warm-up of a tenth of the steps and a cosine schedule."""
    return {
        "optimizer": OptimizerConfig(lr=lr, base_batch=None, weight_decay=0.05),
        "schedule": ScheduleConfig(warmup_steps=max(1, steps // 10), min_lr=1e-5),
        "seed": seed,
    }


class Budget:
    """Number of steps that fit into a CPU time, measured once per kind of training and written to a file.

    A training ends after this number of steps, not after the time, so that its learning rate schedule is complete.

    Args:
        seconds: CPU time of a training.
        file: JSON file of the measured times.
    """

    def __init__(self, seconds: float, file: Path) -> None:
        if not seconds > 0:
            raise InputError(f"--seconds must be above 0, got {seconds}.")
        self.seconds, self.file = seconds, file
        self.times: dict[str, float] = {}
        if file.is_file():
            found = json.loads(file.read_text())
            if found["seconds"] != seconds:
                raise InputError(
                    f"The results in {file.parent} are of --seconds {found['seconds']:g}, not {seconds:g}: choose "
                    "another folder with --results."
                )
            self.times = found["seconds_per_step"]

    def steps(self, kind: str, make: Callable[[int], tuple[Task, L.LightningDataModule]]) -> int:
        """Return the number of steps of a kind of training; `make` returns a task and data for a number of steps."""
        if kind not in self.times:
            clock = _Clock()
            _fit(*make(MEASURED_STEPS), MEASURED_STEPS, [clock])
            self.times[kind] = clock.seconds / (MEASURED_STEPS - SKIPPED_STEPS)
            machine = {**describe_machine("cpu", torch.get_num_threads()), "load_average": os.getloadavg()[0]}
            content = {"machine": machine, "seconds": self.seconds, "seconds_per_step": self.times}
            write_atomically(self.file, json.dumps(content, indent=1) + "\n")
        return max(10, round(self.seconds / self.times[kind]))


class _Clock(L.Callback):
    """CPU time of the steps of a training, without the first ones."""

    def __init__(self) -> None:
        self.seconds, self._start = 0.0, 0.0

    def on_train_batch_end(self, trainer: L.Trainer, *args: Any) -> None:
        if trainer.global_step == SKIPPED_STEPS:
            self._start = time.process_time()
        self.seconds = time.process_time() - self._start


def train(task: Task, data: L.LightningDataModule, steps: int) -> dict[str, Any]:
    """Train a task for a number of steps and return the number and the CPU time."""
    start = time.process_time()
    _fit(task, data, steps, [])
    return {"steps": steps, "cpu_seconds": time.process_time() - start}


def _fit(task: Task, data: L.LightningDataModule, steps: int, callbacks: list[L.Callback]) -> None:
    with quiet(), standard_signal_exceptions():
        trainer = L.Trainer(
            accelerator="cpu",
            max_steps=steps,
            limit_val_batches=0,
            gradient_clip_val=5.0,
            callbacks=callbacks,
            enable_progress_bar=False,
            enable_checkpointing=False,
            enable_model_summary=False,
            logger=False,
            use_distributed_sampler=False,
        )
        trainer.fit(task, data)


@torch.no_grad()
def features_of(network: Any, loader: Any) -> tuple[Features, Features, NDArray[np.int64]]:
    """Return the pooled features (N, C), the logits (N, K) and the labels (N,) of all images of a loader."""
    network.eval()
    parts = []
    for images, labels in loader:
        final = network.forward_features(images)
        pooled, logits = network.forward_head(final, pre_logits=True), network.forward_head(final)
        parts.append((pooled.numpy(), logits.numpy(), labels.numpy()))
    pooled, logits, labels = (np.concatenate(part) for part in zip(*parts, strict=True))
    return pooled, logits, labels


def linear_probe(network: nn.Module, data: Any, costs: Sequence[float] = (0.01, 0.1, 1.0)) -> dict[str, float]:
    """Return the test accuracy of logistic regression on pooled features.

    Args:
        network: any network of timm.
        data: data module with `splits` that are set up and with evaluation loaders of all splits.
        costs: inverse strengths of the regularisation, the best of which is chosen on the validation split.
    """
    found = {split: features_of(network, data.eval_dataloader(split)) for split in ("train", "val", "test")}
    (train, _, labels), (validation, _, names), (test, _, truth) = found.values()
    result = probes.linear_probe(train, labels, test, truth, validation=(validation, names), regularizations=costs)
    best = result.regularization
    return {"probe": result.accuracy, "probe_val": result.sweep[best], "probe_cost": best}
