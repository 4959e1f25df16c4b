"""Measure the share of the training time spent in forward, backward and optimizer, with data in memory.

python -m studies.timing.train [--model test_glnet] [--size 64] [--batch-size 64] [--steps 60]
"""

import argparse
import tempfile
import time
from typing import Any

import torch
from lightning.pytorch import LightningDataModule, Trainer
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import CSVLogger
from torchdata.stateful_dataloader import StatefulDataLoader  # type: ignore[import-untyped]

from glmix.tasks import Classification, MixConfig, OptimizerConfig, ScheduleConfig
from glmix.training.checkpoint_io import AtomicCheckpointIO
from glmix.training.checkpoints import Checkpoints
from glmix.training.process import quiet
from glmix.training.progress import EpochLines


class InMemory(LightningDataModule):
    """Data module that repeats one batch, so that loading data takes no time."""

    num_classes = 10

    def __init__(self, batch_size: int, size: int, steps: int) -> None:
        super().__init__()
        self.batch_size, self.steps = batch_size, steps
        self.batch = torch.randn(batch_size, 3, size, size), torch.randint(10, (batch_size,))

    def train_dataloader(self) -> Any:
        return StatefulDataLoader([self.batch] * self.steps, batch_size=None)


class Clock(Callback):
    """Callback that measures the time in optimizer steps and the total time, after `skip` warm-up steps."""

    def __init__(self, skip: int) -> None:
        self.skip, self.work, self.begin, self.end, self.steps = skip, 0.0, 0.0, 0.0, 0

    def wrap(self, task: Classification) -> None:
        """Time every optimizer step of a task."""
        inner = task.optimizer_step

        def timed(*args: Any, **kwargs: Any) -> None:
            start = time.perf_counter()
            inner(*args, **kwargs)  # includes forward and backward in Lightning
            self.end = time.perf_counter()
            self.steps += 1
            if self.steps > self.skip:
                self.work += self.end - start
            else:
                self.begin = self.end

        task.optimizer_step = timed  # type: ignore[method-assign]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="test_glnet")
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--accelerator", default="cpu")
    args = parser.parse_args()
    with quiet():
        measure(args)


def measure(args: argparse.Namespace) -> None:
    """Train, then print images per second and the share of forward, backward and optimizer."""
    task = Classification(
        model=args.model,
        mix=MixConfig(),
        smoothing=0.1,
        ema_decay=0.99,
        optimizer=OptimizerConfig(base_batch=None),
        schedule=ScheduleConfig(warmup_epochs=0),
    )
    clock = Clock(skip=5)
    clock.wrap(task)
    with tempfile.TemporaryDirectory() as root:
        trainer = Trainer(
            default_root_dir=root,
            accelerator=args.accelerator,
            devices=1,
            max_epochs=1,
            gradient_clip_val=5.0,
            logger=CSVLogger(root),
            log_every_n_steps=10,
            enable_progress_bar=False,
            enable_model_summary=False,
            callbacks=[Checkpoints(every_n_steps=10**6), EpochLines()],
            plugins=[AtomicCheckpointIO()],
        )
        trainer.fit(task, InMemory(args.batch_size, args.size, args.steps))
    total = clock.end - clock.begin
    print(f"{(clock.steps - clock.skip) * args.batch_size / total:.0f} images/s with {torch.get_num_threads()} threads")
    print(f"forward, backward and optimizer take {clock.work / total:.1%} of the training time")


if __name__ == "__main__":
    main()
