"""Lightning checkpoints restore the exact batch of the training loader, wherever they were saved."""

import contextlib
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.callbacks import Callback, ModelCheckpoint

from glmix.data.classification.datamodule import ScenesData
from glmix.data.scenes import SceneConfig


class Recorder(pl.LightningModule):
    """Module that records its batches."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.seen: list[tuple[int, int, float]] = []

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        self.seen.append((self.current_epoch, batch_idx, float(batch[0].double().sum())))
        return self.weight**2

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        pass

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


class StoppedError(Exception):
    pass


class StopAt(Callback):
    def __init__(self, step: int | None) -> None:
        self.step = step

    def on_train_batch_end(self, trainer: pl.Trainer, *args: Any, **kwargs: Any) -> None:
        if trainer.global_step == self.step:
            raise StoppedError


def train(folder: Path, limit: int | None, stop: int | None = None, resume: Path | None = None, **when: Any) -> Any:
    data = ScenesData(SceneConfig(size=16, objects=(1, 1)), train_count=35, val_count=5, batch_size=8)  # 4 batches
    module = Recorder()
    trainer = pl.Trainer(
        accelerator="cpu",
        max_epochs=3,
        limit_train_batches=limit,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        use_distributed_sampler=False,
        default_root_dir=folder,
        callbacks=[ModelCheckpoint(folder, save_last=True, **when), StopAt(stop)],
    )
    with contextlib.suppress(StoppedError):
        trainer.fit(module, data, ckpt_path=resume, weights_only=False)
    return module.seen


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("limit", [None, 3])
@pytest.mark.parametrize(
    "when",
    [
        {"every_n_train_steps": 1},
        {"every_n_epochs": 1, "save_on_train_epoch_end": True},
        {"every_n_epochs": 1, "save_on_train_epoch_end": False},
    ],
    ids=["steps", "epoch ends", "validations"],
)
def test_training_resumes_at_the_exact_batch(tmp_path: Path, limit: int | None, when: dict[str, Any]) -> None:
    batches = limit or 4
    whole = train(tmp_path / "whole", limit, every_n_epochs=9)
    assert len(whole) == len({total for _, _, total in whole}) == 3 * batches  # all batches differ
    for stop in (batches + 1, batches + 2):
        folder = tmp_path / str(stop)
        before = train(folder, limit, stop, **when)
        last = folder / "last.ckpt"
        steps = torch.load(last, weights_only=False)["global_step"]
        assert before[:steps] + train(folder, limit, resume=last, **when) == whole
