"""The folder of a run: one process trains in it at a time, and one of its checkpoints is read."""

import contextlib
import errno
import os
import socket
from collections.abc import Iterable, Iterator
from pathlib import Path

from lightning.pytorch.utilities import rank_zero_warn

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

from ..errors import InputError
from .checkpoint_io import is_intact, newest_intact, step_files
from .checkpoints import Checkpoints
from .task import Task
from .weights import INFO, open_run

__all__ = ["LOCK", "checkpoint_to_resume", "lock_run_folder", "weights_to_measure"]

LOCK = "run.lock"


@contextlib.contextmanager
def lock_run_folder(root: Path) -> Iterator[None]:
    """Keep other processes from training in the same folder.

    The lock is a record lock of the operating system on the file `run.lock`: it ends with the process that holds it,
    however that ends, and processes that are forked from it do not hold it.

    Args:
        root: the run's folder.

    Raises:
        InputError: if another process holds the lock.
    """
    root.mkdir(parents=True, exist_ok=True)
    path = root / LOCK
    handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        _lock(handle, path)
        os.ftruncate(handle, 0)
        os.write(handle, f"process {os.getpid()} on {socket.gethostname()}".encode())
        yield
        os.ftruncate(handle, 0)
    finally:
        os.close(handle)


def _lock(handle: int, path: Path) -> None:
    try:
        if fcntl is None:
            raise OSError(errno.ENOSYS, "no record locks")
        fcntl.lockf(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EACCES, errno.EAGAIN):
            owner = os.read(handle, 1000).decode(errors="replace") or "another process"
            raise InputError(
                f"{path.parent} is in use by {owner}: wait for it, or give another --trainer.default_root_dir (if that "
                f"machine has crashed, delete {path})."
            ) from error
        rank_zero_warn(f"{path} cannot be locked ({error.strerror}): make sure that no other run uses this folder.")


def _problem(path: Path, task: Task) -> str | None:
    """Say in one sentence why a checkpoint is not one of this task and model; None if it is."""
    if not is_intact(path):
        return f"{path} is torn."
    try:
        info = open_run(path).get(INFO)
    except InputError as error:
        return str(error)
    if not isinstance(info, dict):
        return f"{path} is no checkpoint of `glmix fit`."
    if (info.get("task"), info.get("model")) != (task.kind, task.model_name):
        return (
            f"{path} holds {info.get('task')} with {info.get('model')}, and the configuration is {task.kind} with "
            f"{task.model_name}."
        )
    return None


def _first_usable(paths: Iterable[Path], task: Task) -> tuple[Path | None, list[str]]:
    """The first checkpoint that this task can load, and what is wrong with those before it."""
    problems: list[str] = []
    for path in paths:
        problem = _problem(path, task)
        if problem is None:
            return path, problems
        problems.append(problem)
    return None, problems


def _checked(path: Path, task: Task) -> Path:
    if path.suffix == ".ckpt" and (problem := _problem(path, task)) is not None:
        raise InputError(problem)
    return path


def checkpoint_to_resume(root: Path, how: str, task: Task) -> Path | None:
    """Choose the checkpoint that a training continues from.

    Args:
        root: the run's folder.
        how: `auto`, `never` or a file.
        task: what is to be trained.

    Returns:
        The checkpoint; None to begin.

    Raises:
        InputError: if the file cannot be used, with `never` if the folder holds a run, and with `auto` if it holds
            checkpoints of another task or model only.
    """
    folder = Checkpoints.folder(root)
    if how == "never":
        if newest_intact(folder) is not None:
            raise InputError(
                f"{root} holds a run already. Leave out --resume never to continue it, or give another "
                "--trainer.default_root_dir."
            )
        return None
    if how != "auto":
        if not Path(how).is_file():
            raise InputError(f"--resume takes 'auto', 'never' or a .ckpt file; there is no file {how!r}.")
        return _checked(Path(how), task)
    found, problems = _first_usable(step_files(folder), task)
    if found is None and newest_intact(folder) is not None:
        raise InputError(" ".join([*problems, "Give another --trainer.default_root_dir, or delete these files."]))
    for problem in problems:
        rank_zero_warn(f"{problem} It was skipped.")
    return found


def weights_to_measure(root: Path, which: str, task: Task) -> Path:
    """Choose the weights that are validated or tested. Those of `model.checkpoint`, which training begins from, never.

    Args:
        root: the run's folder.
        which: `auto` for its best checkpoint, or the newest where there is no best one; or a file.
        task: what is measured.

    Raises:
        InputError: if there are none, or if they are not those of this task and model.
    """
    if which != "auto":
        if not Path(which).is_file():
            raise InputError(f"--weights takes 'auto' or a file of weights; there is no file {which!r}.")
        if Path(which).suffix != ".ckpt" and task.model_is_backbone:
            raise InputError(
                f"--weights for {task.kind} takes a .ckpt of `glmix fit`; {which} holds a backbone at most."
            )
        return _checked(Path(which), task)
    folder = Checkpoints.folder(root)
    best = folder / "best.ckpt"
    found, problems = _first_usable([*([best] if best.is_file() else []), *step_files(folder)], task)
    if found is None:
        why = problems[0] if problems else f"There are no weights: {folder} has no checkpoint."
        raise InputError(f"{why} Give --trainer.default_root_dir of a run, or --weights FILE.")
    for problem in problems:
        rank_zero_warn(f"{problem} It was skipped.")
    return found
