"""Early stopping on the best validation score, which a resumed run remembers."""

from typing import Any

import lightning.pytorch as L
from lightning.pytorch.callbacks import EarlyStopping

from ..errors import InputError
from .task import Task

__all__ = ["StopEarly"]


class StopEarly(EarlyStopping):
    """Callback that ends the training when the best validation score of the task no longer improves.

    The score is that of the raw or of the EMA weights, whichever is better. The count of validations is part of the
    checkpoints, so a resumed run stops at the same epoch, and resuming a stopped run does not continue it.

    Args:
        patience: number of validations in a row without a better score.
    """

    def __init__(self, patience: int) -> None:
        if patience < 1:
            raise InputError(f"early_stopping must be at least 1 validation, or null for none, got {patience}.")
        super().__init__("val/best", patience=patience, mode="max", check_on_train_epoch_end=False)

    @property
    def stopped(self) -> bool:
        """Whether the patience is exhausted."""
        return bool(self.wait_count >= self.patience)

    @property
    def state_key(self) -> str:
        return "StopEarly"  # the name of the metric is known later than the state is loaded

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict({**state_dict, "patience": self.patience})  # a larger patience continues the training

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        assert isinstance(pl_module, Task)
        self.monitor = f"val/best_{pl_module.score_name}"

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        trainer.should_stop = trainer.should_stop or self.stopped

    def message(self) -> str:
        """Return one sentence about why the training has ended."""
        return (
            f"Stopped early: {self.monitor} did not improve on {float(self.best_score):.4f} in {self.wait_count} "
            "validations."
        )
