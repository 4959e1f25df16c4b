"""Training progress: a rich progress bar on a terminal, one line per epoch elsewhere."""

import sys
import time
from datetime import timedelta
from typing import Any

import lightning.pytorch as L
from lightning.pytorch.callbacks import Callback, RichProgressBar

from .task import Task

__all__ = ["Bar", "EpochLines", "progress"]


class Throughput:
    """Images and steps per second, measured without synchronising the device.

    Lightning's Throughput is not used: it has no value before its window of 100 batches is full.
    """

    def __init__(self) -> None:
        self.images = 0.0
        self.steps = 0.0
        self._last: tuple[float, int] | None = None

    def tick(self, images: int, step: int) -> None:
        """Update the moving averages over about the last hundred batches. Call it after every batch.

        Args:
            images: number of images in the batch, over all processes.
            step: number of optimizer steps so far.
        """
        now = time.perf_counter()
        if self._last is not None:
            seconds = max(now - self._last[0], 1e-9)
            weight = 0.01 if self.images else 1.0
            self.images += weight * (images / seconds - self.images)
            self.steps += weight * ((step - self._last[1]) / seconds - self.steps)
        self._last = (now, step)

    def pause(self) -> None:
        """Exclude the time until the next `tick`, such as validation and saving."""
        self._last = None

    def remaining_time(self, steps: float) -> str:
        """Return the estimated time of a number of steps as text; "?" if it is unknown."""
        if not self.steps or steps == float("inf"):
            return "?"
        return str(timedelta(seconds=round(steps / self.steps)))


def _count_images(batch: Any, trainer: L.Trainer) -> int:
    """Return the number of images in a batch of all processes."""
    return len(batch[0]) * trainer.world_size


def _total_steps(trainer: L.Trainer) -> float:
    if trainer.max_steps > 0:
        return trainer.max_steps
    steps = -(-trainer.num_training_batches // trainer.accumulate_grad_batches)
    return steps * trainer.max_epochs if trainer.max_epochs and trainer.max_epochs > 0 else float("inf")


class Bar(RichProgressBar):
    """Rich progress bar with loss, learning rate, images per second and the estimated remaining time."""

    def __init__(self) -> None:
        super().__init__(leave=True)
        self.throughput = Throughput()

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self.throughput.tick(_count_images(batch, trainer), trainer.global_step)
        super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.throughput.pause()
        super().on_validation_start(trainer, pl_module)

    def get_metrics(
        self, trainer: L.Trainer, pl_module: L.LightningModule
    ) -> dict[str, int | str | float | dict[str, float]]:
        shown: dict[str, Any] = {}
        if isinstance(pl_module, Task) and pl_module.last_loss is not None and trainer.training:
            shown["loss"] = f"{float(pl_module.last_loss):.3f}"
            shown["lr"] = f"{pl_module.learning_rate():.1e}"
            shown["images/s"] = f"{self.throughput.images:.0f}"
            shown["left"] = self.throughput.remaining_time(_total_steps(trainer) - trainer.global_step)
        for name, value in trainer.callback_metrics.items():
            if name.startswith("val/best_"):
                shown[name.removeprefix("val/")] = f"{float(value):.3f}"
        return shown


class EpochLines(Callback):
    """Callback that prints one line per epoch, for log files."""

    def __init__(self) -> None:
        self.throughput = Throughput()

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self.throughput.tick(_count_images(batch, trainer), trainer.global_step)

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.throughput.pause()

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.throughput.pause()
        if not trainer.is_global_zero or not isinstance(pl_module, Task) or pl_module.last_loss is None:
            return
        # without metrics per class, such as val/IoU/NAME: there may be hundreds
        scores = {
            k: float(v) for k, v in trainer.callback_metrics.items() if k.startswith("val/") and k.count("/") == 1
        }
        of_all = f"/{trainer.max_epochs}" if trainer.max_epochs and trainer.max_epochs > 0 else ""
        line = (
            f"epoch {trainer.current_epoch + 1}{of_all}  loss {float(pl_module.last_loss):.3f}  "
            f"lr {pl_module.learning_rate():.1e}  {self.throughput.images:.0f} images/s  "
            f"{self.throughput.remaining_time(_total_steps(trainer) - trainer.global_step)} left"
        )
        line += "".join(f"  {name} {value:.3f}" for name, value in scores.items())
        sys.stderr.write(line + "\n")
        sys.stderr.flush()


def progress() -> Callback:
    """Return the progress callback for the current stdout: `Bar` on a terminal, else `EpochLines`."""
    return Bar() if sys.stdout.isatty() else EpochLines()
