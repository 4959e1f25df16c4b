"""Early stopping: the epoch at which it ends the training, also after a resume; a stopped run stays stopped."""

import shutil
from pathlib import Path
from typing import Any

import pytest

from glmix.errors import InputError
from glmix.tasks import Classification, OptimizerConfig, ScheduleConfig
from glmix.training.checkpoints import Checkpoints
from glmix.training.early_stopping import StopEarly
from glmix_cli import main
from tests.runs import data, task, trainer, write_config

# with these options nothing changes, so that the score of the first validation stays the best
CONSTANT: dict[str, Any] = {
    "trainable_stages": 0,
    "optimizer": OptimizerConfig(lr=0.0, base_batch=None),
    "schedule": ScheduleConfig(warmup_epochs=0, min_lr=0.0),
}


def fit(root: Path, patience: int, start: Path | None = None) -> tuple[StopEarly, int]:
    """Train with early stopping; return the callback and the number of steps of the whole training."""
    stop = StopEarly(patience)
    module: Classification = task(**CONSTANT)
    fitting = trainer(root, max_epochs=9, callbacks=[stop])
    fitting.fit(module, data(train_count=8), ckpt_path=str(start) if start is not None else None)
    return stop, fitting.global_step


def test_stops_after_the_patience_also_when_resumed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save = Checkpoints._save

    def save_and_keep(self: Checkpoints, trainer: Any) -> None:
        save(self, trainer)
        if self.unvalidated:
            shutil.copy(self._path(trainer), tmp_path / f"before-{trainer.global_step}.ckpt")

    monkeypatch.setattr(Checkpoints, "_save", save_and_keep)
    stop, steps = fit(tmp_path / "whole", 2)
    assert steps == 3 * 2  # epochs x steps
    assert stop.stopped
    assert "val/best_top1" in stop.message()
    last = tmp_path / "whole" / "checkpoints" / "step-00000006.ckpt"
    for number, (file, patience, expected) in enumerate(
        [(tmp_path / "before-4.ckpt", 2, 6), (tmp_path / "before-6.ckpt", 2, 6), (last, 2, 6), (last, 3, 8)]
    ):
        _, steps = fit(tmp_path / str(number), patience, file)
        assert steps == expected, file


def test_the_command_ends_cleanly_and_stays_stopped(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = write_config(tmp_path / "c.yaml", tmp_path / "run", limit_train_batches=1, limit_val_batches=1)
    options = ["--model.trainable_stages", "0", "--model.optimizer.lr", "0", "--model.schedule.min_lr", "0"]
    command = ["fit", "--config", str(config), *options, "--early_stopping", "1"]
    assert main(command) == 0
    assert "Stopped early" in capsys.readouterr().err
    assert main(command) == 0
    assert "Increase early_stopping" in capsys.readouterr().err
    assert sorted(file.name for file in (tmp_path / "run" / "checkpoints").glob("step-*")) == [
        "step-00000001.ckpt",
        "step-00000002.ckpt",
    ]


def test_patience_must_be_positive() -> None:
    with pytest.raises(InputError, match="at least 1"):
        StopEarly(0)
