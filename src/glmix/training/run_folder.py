"""Run folder: a lock against concurrent trainings, and the choice of the checkpoint to resume or evaluate."""

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
from .weights import INFO, read_run_checkpoint

__all__ = ["LOCK", "checkpoint_to_resume", "lock_run_folder", "weights_to_evaluate"]

LOCK = "run.lock"


@contextlib.contextmanager
def lock_run_folder(root: Path) -> Iterator[None]:
    """Lock a run folder against other processes.

    The lock is a POSIX record lock on the file `run.lock`. The operating system releases it when the process ends, also
    after a crash, and forked processes do not inherit it.

    Args:
        root: run folder. It is created if it does not exist.

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
                f"{path.parent} is in use by {owner}: wait until it ends, or set another --trainer.default_root_dir "
                f"(if that machine has crashed, delete {path})."
            ) from error
        rank_zero_warn(f"{path} cannot be locked ({error.strerror}): make sure that no other run uses the folder.")


def _problem(path: Path, task: Task) -> str | None:
    """Return an error message if a checkpoint does not fit the task and model; None if it does."""
    if not is_intact(path):
        return f"{path} is incomplete or corrupted."
    try:
        info = read_run_checkpoint(path).get(INFO)
    except InputError as error:
        return str(error)
    if not isinstance(info, dict):
        return f"{path} is not a checkpoint of `glmix fit`."
    if (info.get("task"), info.get("model")) != (task.task_name, task.model_name):
        return (
            f"{path} contains {info.get('task')} with {info.get('model')}, but the configuration has {task.task_name} "
            f"with {task.model_name}."
        )
    return None


def _first_usable(paths: Iterable[Path], task: Task) -> tuple[Path | None, list[str]]:
    """Return the first checkpoint that the task can load, and the error messages of those before it."""
    problems: list[str] = []
    for path in paths:
        problem = _problem(path, task)
        if problem is None:
            return path, problems
        problems.append(problem)
    return None, problems


def _checked(path: Path, task: Task) -> Path:
    """Return `path`, or raise InputError if it is a `.ckpt` that does not fit the task."""
    if path.suffix == ".ckpt" and (problem := _problem(path, task)) is not None:
        raise InputError(problem)
    return path


def checkpoint_to_resume(root: Path, resume: str, task: Task) -> Path | None:
    """Return the checkpoint to resume from; None to start a new training.

    Args:
        root: run folder.
        resume: `auto`, `never` or a checkpoint file.
        task: task to train.

    Raises:
        InputError: if the checkpoint file cannot be used; with `never`, if the folder already has an intact checkpoint;
            with `auto`, if it only has checkpoints of another task or model.
    """
    folder = Checkpoints.folder(root)
    if resume == "never":
        if newest_intact(folder) is not None:
            raise InputError(
                f"{root} already contains a run. Leave out --resume never to resume it, or set another "
                "--trainer.default_root_dir."
            )
        return None
    if resume != "auto":
        if not Path(resume).is_file():
            raise InputError(f"--resume takes 'auto', 'never' or a .ckpt file; there is no file {resume!r}.")
        return _checked(Path(resume), task)
    found, problems = _first_usable(step_files(folder), task)
    if found is None and newest_intact(folder) is not None:
        raise InputError(" ".join([*problems, "Set another --trainer.default_root_dir, or delete these files."]))
    for problem in problems:
        rank_zero_warn(f"{problem} It was skipped.")
    return found


def weights_to_evaluate(root: Path, weights: str, task: Task) -> Path:
    """Return the file with the weights for validation or testing, never that of `model.checkpoint`.

    Args:
        root: run folder.
        weights: `auto` for the best checkpoint, or the newest one if there is no best one; or a file.
        task: task to evaluate.

    Raises:
        InputError: if there is no such file, or if it does not fit the task and model.
    """
    if weights != "auto":
        if not Path(weights).is_file():
            raise InputError(f"--weights takes 'auto' or a file of weights; there is no file {weights!r}.")
        if Path(weights).suffix != ".ckpt" and task.model_is_backbone:
            raise InputError(
                f"--weights for {task.task_name} takes a .ckpt of `glmix fit`; {weights} can only contain a backbone."
            )
        return _checked(Path(weights), task)
    folder = Checkpoints.folder(root)
    best = folder / "best.ckpt"
    found, problems = _first_usable([*([best] if best.is_file() else []), *step_files(folder)], task)
    if found is None:
        reason = problems[0] if problems else f"There are no weights: {folder} has no checkpoint."
        raise InputError(f"{reason} Set --trainer.default_root_dir to the folder of a run, or --weights to a file.")
    for problem in problems:
        rank_zero_warn(f"{problem} It was skipped.")
    return found
