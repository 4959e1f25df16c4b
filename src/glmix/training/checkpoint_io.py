"""Checkpoint files that are whole or not there: written beside, flushed to the disk, then renamed."""

import warnings
import zipfile
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins import CheckpointIO

from ..files import atomic_write

__all__ = ["AtomicCheckpointIO", "is_intact", "newest_intact", "step_files"]


class AtomicCheckpointIO(CheckpointIO):
    """Lightning's way to the disk. A file that cannot be written leaves the one before it as it was.

    A failed write warns and is kept in `error` rather than raised: the other processes of a training are waiting for
    this one. Who asked for the checkpoint looks at `error`.
    """

    def __init__(self) -> None:
        self.error: Exception | None = None

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        target = Path(path)
        self.error = None
        try:
            with atomic_write(target, flush=True) as part, part.open("wb") as file:
                torch.save(checkpoint, file)  # not to a path, whose name would be in the archive
        except (OSError, RuntimeError) as error:  # torch reports a full disk as either
            self.error = error
            warnings.warn(f"{target} could not be written ({error}); earlier checkpoints are untouched.", stacklevel=2)

    def load_checkpoint(self, path: Any, map_location: Any = None, weights_only: bool | None = None) -> dict[str, Any]:
        checkpoint: dict[str, Any] = torch.load(path, map_location=map_location or "cpu", weights_only=True)
        return checkpoint

    def remove_checkpoint(self, path: Any) -> None:
        Path(path).unlink(missing_ok=True)


def is_intact(path: Path) -> bool:
    """Tell whether a checkpoint is a zip archive from its first byte to its end, with matching check sums."""
    try:
        with zipfile.ZipFile(path) as archive:
            # zipfile skips bytes before the archive, with which torch cannot read it
            begins = min((member.header_offset for member in archive.infolist()), default=0) == 0
            return begins and archive.testzip() is None
    except (OSError, zipfile.BadZipFile):
        return False


def step_files(folder: Path) -> list[Path]:
    """The checkpoints of a run, the newest first."""
    return sorted(folder.glob("step-*.ckpt"), reverse=True)


def newest_intact(folder: Path) -> Path | None:
    """The newest checkpoint that is whole."""
    return next((path for path in step_files(folder) if is_intact(path)), None)
