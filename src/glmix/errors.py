"""Exceptions for mistakes that the caller can fix. Every other exception is a bug and keeps its traceback."""

import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from difflib import get_close_matches

__all__ = ["InputError", "MissingExtraError", "is_dead_worker", "is_file_error", "message_of", "nearest", "needs_extra"]


class InputError(ValueError):
    """An argument, a configuration or a file is wrong, and the caller can fix it.

    The message is one sentence that names the thing, what was found and what is accepted. The command line prints it
    without a traceback.
    """


class MissingExtraError(ImportError):
    """A library of an optional extra is not installed. The message holds the pip command that installs it."""


@contextmanager
def needs_extra(extra: str, purpose: str) -> Iterator[None]:
    """Raise MissingExtraError with the pip command if an import inside the `with` block fails.

    Args:
        extra: the extra of this package that installs the library.
        purpose: what needs it, such as "figures".
    """
    try:
        yield
    except ImportError as error:
        raise MissingExtraError(
            f"Install the extra `{extra}` for {purpose} ({error}): pip install 'glmix[{extra}]'."
        ) from error


_NOT_ABOUT_FILES = (
    BlockingIOError,
    ChildProcessError,
    ConnectionError,
    InterruptedError,
    ProcessLookupError,
    TimeoutError,
)


def is_file_error(error: BaseException) -> bool:
    """Return whether an exception is about a file or a disk: a missing file, a full disk, missing permissions."""
    if not isinstance(error, OSError) or isinstance(error, _NOT_ABOUT_FILES):
        return False
    about_files = (FileNotFoundError, FileExistsError, PermissionError, IsADirectoryError, NotADirectoryError)
    return isinstance(error, about_files) or error.errno is not None


def nearest(name: str, accepted: Iterable[str]) -> str:
    """Return " Did you mean '...'?" with the most similar accepted name; an empty string if none is similar."""
    close = get_close_matches(name, list(accepted), n=1, cutoff=0.5)
    return f" Did you mean {close[0]!r}?" if close else ""


def is_dead_worker(error: BaseException) -> bool:
    """Return whether an exception of a DataLoader says that a worker process was killed, for example by the system."""
    dead = re.match(r"DataLoader worker \(pid.* (is killed by signal|exited unexpectedly)", str(error))
    return isinstance(error, RuntimeError) and dead is not None


def message_of(error: BaseException) -> str:
    """Return the message of an error, in one sentence also for errors of the worker processes of a DataLoader."""
    text = str(error)
    if is_dead_worker(error):
        return (
            f"{text.splitlines()[0].removesuffix('.')}. The usual reason is too little memory: run the command again "
            "to continue, with fewer worker processes or smaller batches."
        )
    if not re.match(r"Caught \w+ in DataLoader worker process", text):
        return text
    *_, original = re.split(rf"^(?:[\w.]+\.)?{type(error).__name__}: ", text, flags=re.MULTILINE)
    return original.strip()
