"""Atomic file writes."""

import contextlib
import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

__all__ = ["PART", "check_writable", "temporary_path", "publish", "atomic_write", "write_atomically", "write_json"]

PART = ".part"  # suffix of temporary files


def temporary_path(target: Path) -> Path:
    """Return the path of the temporary file for writing `target`, in the same folder so that the rename is atomic.

    The name is a hash, because a target name of up to 255 bytes leaves no room for a suffix.
    """
    name = hashlib.blake2b(os.fsencode(target.name), digest_size=8).hexdigest()
    return target.with_name(f".{name}.{os.getpid()}{PART}")


@contextlib.contextmanager
def atomic_write(target: Path, *, flush: bool = False) -> Iterator[Path]:
    """Yield a temporary path and rename it to `target` at the end. After an error, `target` is unchanged.

    The file gets the default permissions of new files, even if a library creates its files with other permissions.

    Args:
        target: file to create or replace. Missing parent folders are created.
        flush: flush the file to disk before it is renamed, so that a power loss cannot leave an incomplete file.
    """
    part = temporary_path(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        part.touch()
        mode = part.stat().st_mode
        part.unlink()
        yield part
        if part.stat().st_mode != mode:
            part.chmod(mode)
        if flush:
            _flush(part)
        os.replace(part, target)
        if flush and os.name == "posix":
            _flush(target.parent)
    finally:
        part.unlink(missing_ok=True)


def _flush(path: Path) -> None:
    """Flush a file or folder to disk."""
    handle = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_atomically(target: Path, content: bytes | str) -> None:
    """Write bytes or text to a file with `atomic_write`."""
    with atomic_write(target) as part:
        part.write_bytes(content.encode() if isinstance(content, str) else content)


def write_json(target: Path, contents: Any) -> None:
    """Write a JSON file with `atomic_write`."""
    write_atomically(target, json.dumps(contents, indent=2) + "\n")


def check_writable(targets: Sequence[Path], overwrite: bool) -> None:
    """Check that files can be written, before the work that produces them.

    Args:
        targets: files to write.
        overwrite: whether existing files are accepted.

    Raises:
        OSError: if a target is a folder, exists already, or cannot be created.
    """
    for target in targets:
        if target.is_dir():
            raise IsADirectoryError(f"{target} is a folder: name a file in it.")
        if target.exists() and not overwrite:
            raise FileExistsError(f"{target} already exists; choose another name or overwrite it.")
        if not target.parent.is_dir():
            raise FileNotFoundError(f"{target.parent} is not a folder, so {target.name} cannot be written to it.")
        try:
            temporary_path(target).touch()
            temporary_path(target).unlink()
        except OSError as error:
            raise type(error)(error.errno, f"{target} cannot be written ({error.strerror})") from error


def publish(files: Sequence[tuple[Path, Path]]) -> None:
    """Copy several files to their targets: write and flush all temporary files first, then rename all of them.

    Args:
        files: (source, target) pairs. The last file must be the one that refers to the others, such as a graph that
            names its weights: it exists only when all files are complete.
    """
    try:
        for source, target in files:
            shutil.copyfile(source, temporary_path(target))
            _flush(temporary_path(target))
        if len(files) > 1:
            files[-1][1].unlink(missing_ok=True)
        for _, target in files:
            os.replace(temporary_path(target), target)
    except OSError as error:
        raise type(error)(error.errno, f"{files[-1][1]} could not be written ({error.strerror})") from error
    finally:
        for _, target in files:
            temporary_path(target).unlink(missing_ok=True)
