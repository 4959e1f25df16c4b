"""Files that appear whole or not at all."""

import os
import shutil
from collections.abc import Sequence
from pathlib import Path

__all__ = ["make_sure_it_can_be_written", "publish"]


def _part(target: Path) -> Path:
    return target.with_name(f".{target.name}.{os.getpid()}.part")


def make_sure_it_can_be_written(targets: Sequence[Path], overwrite: bool) -> None:
    """Find out before the work is done whether its result can be put there."""
    for target in targets:
        if target.is_dir():
            raise IsADirectoryError(f"{target} is a folder: name a file in it.")
        if target.exists() and not overwrite:
            raise FileExistsError(f"{target} is there already; choose another name or overwrite it.")
        if not target.parent.is_dir():
            raise FileNotFoundError(f"{target.parent} is no folder, so {target.name} cannot be written to it.")
        try:
            _part(target).touch()
            _part(target).unlink()
        except OSError as error:
            raise type(error)(error.errno, f"{target} cannot be written ({error.strerror})") from error


def publish(files: Sequence[tuple[Path, Path]]) -> None:
    """Copy files to where they belong, [(from, to), ...]: each beside its place, to the disk, and then all renamed.

    The last is the one that is read first, such as the graph that names its weights. Whoever finds it finds all.
    """
    try:
        for source, target in files:
            with source.open("rb") as reader, _part(target).open("wb") as writer:
                shutil.copyfileobj(reader, writer, 1 << 20)
                writer.flush()
                os.fsync(writer.fileno())
        if len(files) > 1:
            files[-1][1].unlink(missing_ok=True)
        for _, target in files:
            os.replace(_part(target), target)
    except OSError as error:
        raise type(error)(error.errno, f"{files[-1][1]} could not be written ({error.strerror})") from error
    finally:
        for _, target in files:
            _part(target).unlink(missing_ok=True)
