"""Learning rate range test: the loss of a short training whose learning rate grows exponentially."""

from collections.abc import Sequence
from pathlib import Path

import lightning.pytorch as L
import matplotlib.pyplot as plt
import numpy as np
from lightning.pytorch.tuner import Tuner

from ..errors import InputError
from ..files import atomic_write
from .task import Task

__all__ = ["find_lr", "steepest_rate"]


def find_lr(trainer: L.Trainer, task: Task, data: L.LightningDataModule, plot: Path, steps: int = 100) -> float:
    """Return the learning rate at which the loss falls fastest, in the units of `optimizer.lr`.

    The learning rate grows from 1e-7 to 1 over the steps, in all parameter groups alike. The test stops when the loss
    is four times its minimum.

    Args:
        trainer: trainer without loggers, on a temporary folder.
        task: task with its starting weights. The test does not change them.
        data: data module.
        plot: PNG file for the curve.
        steps: number of optimizer steps.

    Raises:
        InputError: if the loss does not fall.
    """
    finder = Tuner(trainer).lr_find(
        task, datamodule=data, min_lr=1e-7, max_lr=1.0, num_training=steps, update_attr=False
    )
    assert finder is not None
    found = steepest_rate(finder.results["lr"], finder.results["loss"])
    figure, axes = plt.subplots()
    finder.plot(ax=axes)
    axes.axvline(found, color="red")
    with atomic_write(plot) as part:
        figure.savefig(part, format="png")
    plt.close(figure)
    base = task.optimizer_config.base_batch
    return found if base is None else found * base / task.global_batch


def steepest_rate(rates: Sequence[float], losses: Sequence[float], skip: int = 10) -> float:
    """Return the learning rate at which the loss falls fastest per factor of the learning rate.

    Lightning's `suggestion` divides by differences of the rates themselves, and so finds the noise at tiny rates.

    Args:
        rates: learning rates with a constant factor between them.
        losses: smoothed losses, up to the one that ended the test.
        skip: number of points at the start that are left out, because the moving average has just begun.

    Raises:
        InputError: if there are too few points, or the loss never falls.
    """
    slopes = np.gradient(losses[skip:-1]) if len(losses) > skip + 3 else np.zeros(1)
    if not slopes.min() < 0:
        raise InputError(f"No learning rate was found: the loss did not fall in the {len(losses)} steps of the test.")
    return float(rates[skip + int(slopes.argmin())])
