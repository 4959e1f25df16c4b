"""Files that are whole or not there."""

import contextlib
import hashlib
import os
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

__all__ = ["PART", "check_writable", "temporary_path", "publish", "atomic_write", "write_atomically"]

PART = ".part"  # how names of files end that are not whole


def temporary_path(target: Path) -> Path:
    """The temporary file in which this process writes `target`: in the same folder, so that renaming it is one step.

    It is named by a hash, because a name of up to 255 bytes leaves no room for a suffix.
    """
    name = hashlib.blake2b(os.fsencode(target.name), digest_size=8).hexdigest()
    return target.with_name(f".{name}.{os.getpid()}{PART}")


@contextlib.contextmanager
def atomic_write(target: Path, *, flush: bool = False) -> Iterator[Path]:
    """A name to write to; what is there at the end takes the place of `target`. An error leaves all as it was.

    Folders that are missing are made. With `flush` it is on the disk before it has its name, so that no loss of power
    leaves a torn file. The permissions are those of any new file of this process, also where a library that writes to
    the name makes its files private.
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
    handle = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_atomically(target: Path, content: bytes | str) -> None:
    """A file of bytes or text, by `atomic_write`."""
    with atomic_write(target) as part:
        part.write_bytes(content.encode() if isinstance(content, str) else content)


def check_writable(targets: Sequence[Path], overwrite: bool) -> None:
    """Find out before the work is done whether its result can be put there."""
    for target in targets:
        if target.is_dir():
            raise IsADirectoryError(f"{target} is a folder: name a file in it.")
        if target.exists() and not overwrite:
            raise FileExistsError(f"{target} is there already; choose another name or overwrite it.")
        if not target.parent.is_dir():
            raise FileNotFoundError(f"{target.parent} is no folder, so {target.name} cannot be written to it.")
        try:
            temporary_path(target).touch()
            temporary_path(target).unlink()
        except OSError as error:
            raise type(error)(error.errno, f"{target} cannot be written ({error.strerror})") from error


def publish(files: Sequence[tuple[Path, Path]]) -> None:
    """Copy files to where they belong, [(from, to), ...]: all of them to the disk, and then all renamed.

    The last is the one that is read first, such as the graph that names its weights. Whoever finds it finds all.
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
