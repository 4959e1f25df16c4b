"""Progress: a rich bar on a terminal, a line an epoch elsewhere."""

import sys
import time
from datetime import timedelta
from typing import Any

import lightning.pytorch as L
from lightning.pytorch.callbacks import Callback, RichProgressBar

from .task import Task

__all__ = ["Bar", "EpochLines", "progress"]


class Pace:
    """Images and steps a second, from the clock alone: nothing waits for the device."""

    def __init__(self) -> None:
        self.images = 0.0
        self.steps = 0.0
        self._last: tuple[float, int] | None = None

    def tick(self, images: int, step: int) -> None:
        """Call after every batch with the images of all processes; averages over about the last hundred batches."""
        now = time.perf_counter()
        if self._last is not None:
            seconds = max(now - self._last[0], 1e-9)
            weight = 0.01 if self.images else 1.0
            self.images += weight * (images / seconds - self.images)
            self.steps += weight * ((step - self._last[1]) / seconds - self.steps)
        self._last = (now, step)

    def pause(self) -> None:
        """Validation and saving are not training time."""
        self._last = None

    def left(self, steps: float) -> str:
        if not self.steps or steps == float("inf"):
            return "?"
        return str(timedelta(seconds=round(steps / self.steps)))


def _images(batch: Any, trainer: L.Trainer) -> int:
    return len(batch[0]) * trainer.world_size


def _total_steps(trainer: L.Trainer) -> float:
    if trainer.max_steps > 0:
        return trainer.max_steps
    steps = -(-trainer.num_training_batches // trainer.accumulate_grad_batches)
    return steps * trainer.max_epochs if trainer.max_epochs and trainer.max_epochs > 0 else float("inf")


class Bar(RichProgressBar):
    """Rich's bar with loss, learning rate, images a second and the time that the whole training still takes."""

    def __init__(self) -> None:
        super().__init__(leave=True)
        self.pace = Pace()

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self.pace.tick(_images(batch, trainer), trainer.global_step)
        super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.pace.pause()
        super().on_validation_start(trainer, pl_module)

    def get_metrics(
        self, trainer: L.Trainer, pl_module: L.LightningModule
    ) -> dict[str, int | str | float | dict[str, float]]:
        shown: dict[str, Any] = {}
        if isinstance(pl_module, Task) and pl_module.last_loss is not None and trainer.training:
            shown["loss"] = f"{float(pl_module.last_loss):.3f}"
            shown["lr"] = f"{pl_module.learning_rate():.1e}"
            shown["images/s"] = f"{self.pace.images:.0f}"
            shown["left"] = self.pace.left(_total_steps(trainer) - trainer.global_step)
        for name, value in trainer.callback_metrics.items():
            if name.startswith("val/best_"):
                shown[name.removeprefix("val/")] = f"{float(value):.3f}"
        return shown


class EpochLines(Callback):
    """One line after every epoch, for logs that are files."""

    def __init__(self) -> None:
        self.pace = Pace()

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self.pace.tick(_images(batch, trainer), trainer.global_step)

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.pace.pause()

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.pace.pause()
        if not trainer.is_global_zero or not isinstance(pl_module, Task) or pl_module.last_loss is None:
            return
        # not those of single classes, val/IoU/NAME, of which there may be hundreds
        scores = {
            k: float(v) for k, v in trainer.callback_metrics.items() if k.startswith("val/") and k.count("/") == 1
        }
        of_all = f"/{trainer.max_epochs}" if trainer.max_epochs and trainer.max_epochs > 0 else ""
        line = (
            f"epoch {trainer.current_epoch + 1}{of_all}  loss {float(pl_module.last_loss):.3f}  "
            f"lr {pl_module.learning_rate():.1e}  {self.pace.images:.0f} images/s  "
            f"{self.pace.left(_total_steps(trainer) - trainer.global_step)} left"
        )
        line += "".join(f"  {name} {value:.3f}" for name, value in scores.items())
        sys.stderr.write(line + "\n")
        sys.stderr.flush()


def progress() -> Callback:
    return Bar() if sys.stdout.isatty() else EpochLines()
