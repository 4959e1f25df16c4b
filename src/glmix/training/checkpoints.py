"""When checkpoints are written: every so many steps, after each epoch, and when the process is asked to end."""

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

from ..compat import is_accumulating, loops_state, run_validation, start_next_epoch
from ..errors import InputError
from ..files import PART, atomic_write
from .checkpoint_io import AtomicCheckpointIO, step_files
from .process import in_main_thread
from .task import Task

__all__ = ["Checkpoints", "Preempted"]

SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)
SAME_SIGNAL = 0.5  # seconds: a launcher may pass on a signal that the terminal has sent to its processes already


class Preempted(Exception):  # noqa: N818 - it is no error
    """The process was asked to end and has saved where it stood."""

    def __init__(self, signum: int, step: int, path: Path) -> None:
        self.signum = signum
        name = signal.Signals(signum).name
        super().__init__(f"{name} received: stopped after step {step}, saved in {path}. The same command continues.")


class Checkpoints(Checkpoint):
    """Writes `checkpoints/step-*.ckpt` in the run's folder, and `best.ckpt` after the best validation.

    SIGTERM, SIGUSR1 and SIGINT (Ctrl-C) finish the current step, save, and end the training with `Preempted`; a second
    Ctrl-C ends it at once. Under Slurm the job is put back into the queue first, where Lightning's environment asks
    for that, but not after Ctrl-C.

    Args:
        every_n_steps: steps between checkpoints, beside those at the end of each epoch.
        keep: how many of the newest stay.
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
        self.unvalidated = False  # the epoch's last batch is done, its validation is not
        self.began = False
        self._saved_step = -1
        self._loops: dict[str, Any] | None = None
        self._handlers: dict[int, Any] = {}

    @staticmethod
    def folder(root: str | Path) -> Path:
        return Path(root) / "checkpoints"

    # ---- signals

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        start_next_epoch(trainer)
        # Lightning's own handlers, registered just before, save in the middle of a batch: these take their place
        for signum in SIGNALS if in_main_thread() else ():
            self._handlers[signum] = signal.signal(signum, self._receive)
        if trainer.is_global_zero:
            for stray in self.folder(trainer.default_root_dir).glob(f".*{PART}"):
                stray.unlink(missing_ok=True)
        if self.unvalidated and trainer.current_epoch % (trainer.check_val_every_n_epoch or 1) == 0:
            # killed between an epoch's last batch and the end of its validation, which Lightning would leave out
            run_validation(trainer)
            self._end_epoch(trainer, pl_module)

    def _receive(self, signum: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        if self.received is None:
            self.received, self._received_at = signum, now
        elif signum == signal.SIGINT and now - self._received_at > SAME_SIGNAL:
            raise KeyboardInterrupt

    def _is_asked_to_end(self, trainer: L.Trainer) -> bool:
        return bool(trainer.strategy.reduce_boolean_decision(self.received is not None, all=False))

    def _end(self, trainer: L.Trainer) -> None:
        signum = self.received or signal.SIGTERM
        environment = getattr(trainer.strategy, "cluster_environment", None)
        requeue = isinstance(environment, SLURMEnvironment) and environment.auto_requeue and signum != signal.SIGINT
        if requeue and trainer.is_global_zero:
            job = os.environ.get("SLURM_JOB_ID", "")
            if subprocess.run(["scontrol", "requeue", job], check=False).returncode != 0:
                rank_zero_warn(f"Slurm did not put job {job} back into the queue; submit it again to continue.")
        self._fail_if_unsaved(trainer)
        raise Preempted(signum, trainer.global_step, self._path(trainer))

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        self._put_handlers_back()

    def _put_handlers_back(self) -> None:
        for signum, handler in self._handlers.items():
            signal.signal(signum, handler)
        self._handlers = {}

    # ---- when

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self.began = True
        if is_accumulating(trainer):
            return  # half of a step cannot be resumed
        ends = self._is_asked_to_end(trainer)
        self.unvalidated = trainer.is_last_batch
        self._loops = None
        if ends or trainer.global_step % self.every_n_steps == 0 or trainer.is_last_batch:
            self._save(trainer)
        if trainer.is_last_batch:
            self._loops = loops_state(trainer)
        if ends:
            self._end(trainer)

    def on_validation_batch_end(self, trainer: L.Trainer, *args: Any, **kwargs: Any) -> None:
        # between processes, which may have different numbers of batches, one must not ask the others here
        saved = trainer.global_step == self._saved_step
        if trainer.world_size == 1 and self.received is not None and saved:
            self._end(trainer)

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._end_epoch(trainer, pl_module)
        if self._is_asked_to_end(trainer):
            self._end(trainer)

    def _end_epoch(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.unvalidated = False
        best = pl_module.best if isinstance(pl_module, Task) else None
        improved = best is not None and (self.best is None or best > self.best)
        self.best = best if improved else self.best
        self._save(trainer)
        if improved and trainer.is_global_zero and self.failed is None:
            _link(self._path(trainer), self._path(trainer).with_name("best.ckpt"))

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._put_handlers_back()  # before Lightning puts back those that were there before its own
        self._fail_if_unsaved(trainer)

    # ---- how

    def _path(self, trainer: L.Trainer) -> Path:
        return self.folder(trainer.default_root_dir) / f"step-{trainer.global_step:08d}.ckpt"

    def _save(self, trainer: L.Trainer) -> None:
        path = self._path(trainer)
        trainer.save_checkpoint(path)
        checkpoint_io = trainer.strategy.checkpoint_io
        self.failed = checkpoint_io.error if isinstance(checkpoint_io, AtomicCheckpointIO) else None
        self._saved_step = -1 if self.failed else trainer.global_step
        if trainer.is_global_zero and self.failed is None:
            # files of later steps are not of this training: it has skipped them
            earlier = [file for file in step_files(path.parent) if file.name <= path.name]
            for old in earlier[self.keep :]:
                old.unlink(missing_ok=True)

    def _fail_if_unsaved(self, trainer: L.Trainer) -> None:
        if self.failed is not None:
            raise OSError(
                f"The state after step {trainer.global_step} could not be saved ({self.failed}). Make room and give "
                "the same command: it continues from the last good checkpoint."
            )

    def state_dict(self) -> dict[str, Any]:
        return {"best": self.best, "unvalidated": self.unvalidated}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.best, self.unvalidated = state_dict["best"], state_dict["unvalidated"]

    def on_save_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        # Lightning resumes rightly from after an epoch's last batch, not from after its validation: there it forgets
        # to give the loader its state back. So both say the former.
        if self._loops is not None:
            checkpoint["loops"] = self._loops

    def on_load_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        self._loops = checkpoint["loops"]


def _link(source: Path, target: Path) -> None:
    """Give a file a second name, replacing what had that name, without a moment in which there is none."""
    with atomic_write(target) as part:
        try:
            os.link(source, part)
        except OSError:
            shutil.copyfile(source, part)
