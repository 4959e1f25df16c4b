"""Checkpoint callback: save every N steps, after each epoch and on termination signals."""

import os
import shutil
import signal
import subprocess
import time
from pathlib import Path
from types import FrameType
from typing import Any

import lightning.pytorch as L
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.plugins.environments import SLURMEnvironment
from lightning.pytorch.utilities import rank_zero_warn

from ..compat import is_accumulating, loops_state, restart_validation, run_validation, start_next_epoch
from ..errors import InputError
from ..files import PART, atomic_write
from .checkpoint_io import AtomicCheckpointIO, step_files
from .process import in_main_thread
from .task import Task

__all__ = ["Checkpoints", "Preempted"]

SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)
# Seconds. A launcher may forward a signal that the terminal has already sent to the same process.
DUPLICATE_SIGNAL_WINDOW = 0.5


class Preempted(Exception):  # noqa: N818 - it is not an error
    """A termination signal ended the training after a checkpoint was saved."""

    def __init__(self, signum: int, step: int, path: Path) -> None:
        self.signum = signum
        name = signal.Signals(signum).name
        super().__init__(
            f"{name} received: stopped after step {step}, saved in {path}. Run the same command to resume."
        )


class Checkpoints(Checkpoint):
    """Callback that writes `checkpoints/step-*.ckpt` in the run folder, and `best.ckpt` for the best validation score.

    On SIGTERM, SIGUSR1 and SIGINT (Ctrl-C) it finishes the current step, saves a checkpoint and raises `Preempted`. A
    second Ctrl-C ends the training immediately. Under Slurm it requeues the job first if Lightning's
    `SLURMEnvironment.auto_requeue` is set, except after Ctrl-C.

    Args:
        every_n_steps: optimizer steps between checkpoints. Checkpoints at the end of each epoch are saved in addition.
        keep: number of newest step checkpoints to keep.
    """

    def __init__(self, every_n_steps: int = 500, keep: int = 2) -> None:
        if every_n_steps < 1 or keep < 1:
            raise InputError(f"every_n_steps and keep must be at least 1, got {every_n_steps} and {keep}.")
        self.every_n_steps = every_n_steps
        self.keep = keep
        self.received: int | None = None
        self._received_at = 0.0
        self.failed: Exception | None = None
        self.best: float | None = None
        self.unvalidated = False  # whether the epoch has ended but its validation has not
        self.began = False
        self._saved_step = -1
        self._loops: dict[str, Any] | None = None
        self._handlers: dict[int, Any] = {}

    @staticmethod
    def folder(root: str | Path) -> Path:
        """Return the checkpoint folder of a run folder."""
        return Path(root) / "checkpoints"

    # ---- signals

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        start_next_epoch(trainer)
        restart_validation(trainer)
        # Replace Lightning's handlers, which were registered before: they save in the middle of a batch.
        for signum in SIGNALS if in_main_thread() else ():
            self._handlers[signum] = signal.signal(signum, self._receive)
        if trainer.is_global_zero:
            for leftover in self.folder(trainer.default_root_dir).glob(f".*{PART}"):
                leftover.unlink(missing_ok=True)
        if self.unvalidated and trainer.current_epoch % (trainer.check_val_every_n_epoch or 1) == 0:
            # The run was killed before the validation of the last epoch ended, and Lightning would skip it.
            run_validation(trainer)
            self._end_epoch(trainer, pl_module)

    def _receive(self, signum: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        if self.received is None:
            self.received, self._received_at = signum, now
        elif signum == signal.SIGINT and now - self._received_at > DUPLICATE_SIGNAL_WINDOW:
            raise KeyboardInterrupt

    def _signal_received(self, trainer: L.Trainer) -> bool:
        """Return whether any process has received a termination signal."""
        return bool(trainer.strategy.reduce_boolean_decision(self.received is not None, all=False))

    def _stop(self, trainer: L.Trainer) -> None:
        """Requeue the Slurm job if there is one and raise `Preempted`."""
        signum = self.received or signal.SIGTERM
        environment = getattr(trainer.strategy, "cluster_environment", None)
        requeue = isinstance(environment, SLURMEnvironment) and environment.auto_requeue and signum != signal.SIGINT
        if requeue and trainer.is_global_zero:
            job = os.environ.get("SLURM_JOB_ID", "")
            if subprocess.run(["scontrol", "requeue", job], check=False).returncode != 0:
                rank_zero_warn(f"Slurm could not requeue job {job}; submit it again to resume.")
        self._fail_if_unsaved(trainer)
        raise Preempted(signum, trainer.global_step, self._path(trainer))

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        self._restore_handlers()

    def _restore_handlers(self) -> None:
        for signum, handler in self._handlers.items():
            signal.signal(signum, handler)
        self._handlers = {}

    # ---- schedule

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self.began = True
        if is_accumulating(trainer):
            return  # training cannot resume within gradient accumulation
        stop = self._signal_received(trainer)
        self.unvalidated = trainer.is_last_batch
        self._loops = None
        if stop or trainer.global_step % self.every_n_steps == 0 or trainer.is_last_batch:
            self._save(trainer)
        if trainer.is_last_batch:
            self._loops = loops_state(trainer)
        if stop:
            self._stop(trainer)

    def on_validation_batch_end(self, trainer: L.Trainer, *args: Any, **kwargs: Any) -> None:
        # no collective call here: processes may have different numbers of validation batches
        saved = trainer.global_step == self._saved_step
        if trainer.world_size == 1 and self.received is not None and saved:
            self._stop(trainer)

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._end_epoch(trainer, pl_module)
        if self._signal_received(trainer):
            self._stop(trainer)

    def _end_epoch(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.unvalidated = False
        best = pl_module.best if isinstance(pl_module, Task) else None
        improved = best is not None and (self.best is None or best > self.best)
        self.best = best if improved else self.best
        self._save(trainer)
        if improved and trainer.is_global_zero and self.failed is None:
            _replace_with_link(self._path(trainer), self._path(trainer).with_name("best.ckpt"))

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._restore_handlers()  # before Lightning restores the handlers that preceded its own
        self._fail_if_unsaved(trainer)

    # ---- saving

    def _path(self, trainer: L.Trainer) -> Path:
        return self.folder(trainer.default_root_dir) / f"step-{trainer.global_step:08d}.ckpt"

    def _save(self, trainer: L.Trainer) -> None:
        path = self._path(trainer)
        trainer.save_checkpoint(path)
        checkpoint_io = trainer.strategy.checkpoint_io
        self.failed = checkpoint_io.error if isinstance(checkpoint_io, AtomicCheckpointIO) else None
        self._saved_step = -1 if self.failed else trainer.global_step
        if trainer.is_global_zero and self.failed is None:
            # keep checkpoints of later steps: they are not from this training, and resume skipped them
            earlier = [file for file in step_files(path.parent) if file.name <= path.name]
            for old in earlier[self.keep :]:
                old.unlink(missing_ok=True)

    def _fail_if_unsaved(self, trainer: L.Trainer) -> None:
        if self.failed is not None:
            raise OSError(
                f"The state after step {trainer.global_step} could not be saved ({self.failed}). Free disk space and "
                "run the same command: it resumes from the last intact checkpoint."
            )

    def state_dict(self) -> dict[str, Any]:
        return {"best": self.best, "unvalidated": self.unvalidated}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.best, self.unvalidated = state_dict["best"], state_dict["unvalidated"]

    def on_save_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        # Lightning does not restore the data loader from a state that was saved after a validation. Checkpoints after a
        # validation therefore store the state of the loops from before it, after the last batch of the epoch.
        if self._loops is not None:
            checkpoint["loops"] = self._loops

    def on_load_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        self._loops = checkpoint["loops"]


def _replace_with_link(source: Path, target: Path) -> None:
    """Replace `target` atomically with a hard link to `source`, or with a copy where links are not supported."""
    with atomic_write(target) as part:
        try:
            os.link(source, part)
        except OSError:
            shutil.copyfile(source, part)
