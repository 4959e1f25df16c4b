"""How much of the trainer's time is forward, backward and optimiser, on a data set in memory: printed as a ratio.

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
from torchdata.stateful_dataloader import StatefulDataLoader

from glmix.tasks import Classification, MixConfig, OptimizerConfig, ScheduleConfig
from glmix.training.checkpoint_io import AtomicCheckpointIO
from glmix.training.checkpoints import Checkpoints
from glmix.training.process import quiet
from glmix.training.progress import EpochLines


class InMemory(LightningDataModule):
    """Batches that exist already, so that what is left is the trainer."""

    num_classes = 10

    def __init__(self, batch_size: int, size: int, steps: int) -> None:
        super().__init__()
        self.batch_size, self.steps = batch_size, steps
        self.batch = torch.randn(batch_size, 3, size, size), torch.randint(10, (batch_size,))

    def train_dataloader(self) -> Any:
        return StatefulDataLoader([self.batch] * self.steps, batch_size=None)


class Clock(Callback):
    """Seconds inside the training steps' work, and from the first step of the run to the last."""

    def __init__(self, skip: int) -> None:
        self.skip, self.work, self.begin, self.end, self.steps = skip, 0.0, 0.0, 0.0, 0

    def wrap(self, task: Classification) -> None:
        inner = task.optimizer_step

        def timed(*args: Any, **kwargs: Any) -> None:
            start = time.perf_counter()
            inner(*args, **kwargs)  # Lightning calls forward and backward inside of the optimiser's step
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
    whole = clock.end - clock.begin
    print(f"{(clock.steps - clock.skip) * args.batch_size / whole:.0f} images/s with {torch.get_num_threads()} threads")
    print(f"forward, backward and optimiser take {clock.work / whole:.1%} of the trainer's time")


if __name__ == "__main__":
    main()
