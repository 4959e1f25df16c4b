"""Atomic checkpoint files: write a temporary file, flush it to disk, then rename it."""

import warnings
import zipfile
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins import CheckpointIO

from ..files import atomic_write

__all__ = ["AtomicCheckpointIO", "is_intact", "newest_intact", "step_files"]


class AtomicCheckpointIO(CheckpointIO):
    """Lightning plugin that writes checkpoints atomically. A failed write keeps the previous file.

    A failed write warns and sets `error` instead of raising, because the other processes of a distributed training
    wait for this process. The caller that requested the checkpoint must check `error`.
    """

    def __init__(self) -> None:
        self.error: Exception | None = None

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        target = Path(path)
        self.error = None
        try:
            with atomic_write(target, flush=True) as part, part.open("wb") as file:
                torch.save(
                    checkpoint, file
                )  # given a path instead of a file, torch would store the temporary name in the archive
        except (OSError, RuntimeError) as error:  # torch raises one or the other for a full disk
            self.error = error
            warnings.warn(f"{target} could not be written ({error}); earlier checkpoints are unchanged.", stacklevel=2)

    def load_checkpoint(self, path: Any, map_location: Any = None, weights_only: bool | None = None) -> dict[str, Any]:
        checkpoint: dict[str, Any] = torch.load(path, map_location=map_location or "cpu", weights_only=True)
        return checkpoint

    def remove_checkpoint(self, path: Any) -> None:
        Path(path).unlink(missing_ok=True)


def is_intact(path: Path) -> bool:
    """Return whether a checkpoint is a complete zip archive with correct checksums."""
    try:
        with zipfile.ZipFile(path) as archive:
            # zipfile accepts bytes before the archive, torch does not
            starts_at_zero = min((member.header_offset for member in archive.infolist()), default=0) == 0
            return starts_at_zero and archive.testzip() is None
    except (OSError, zipfile.BadZipFile):
        return False


def step_files(folder: Path) -> list[Path]:
    """Return the step checkpoints of a run, newest first."""
    return sorted(folder.glob("step-*.ckpt"), reverse=True)


def newest_intact(folder: Path) -> Path | None:
    """Return the newest intact checkpoint of a run; None if there is none."""
    return next((path for path in step_files(folder) if is_intact(path)), None)
