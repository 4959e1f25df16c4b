"""Limits on the sizes of images, error messages and exit codes of all commands on images."""

import argparse
import sys
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from .printing import printable

__all__ = [
    "AcceptsArguments",
    "MAX_INPUT_PIXELS",
    "MAX_PIXELS",
    "add_input_limit",
    "check_enlarged",
    "exit_code",
    "positive_integer",
    "print_errors",
]

MAX_PIXELS = 64_000_000
MAX_INPUT_PIXELS = 2048 * 2048


class AcceptsArguments(Protocol):
    """A parser, or a group of its arguments."""

    def add_argument(self, *names: str, **options: Any) -> argparse.Action: ...


def positive_integer(text: str) -> int:
    """Parse a command-line argument that must be an integer of at least 1."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected an integer of at least 1, got {text!r}")
    return int(text)


def add_input_limit(parser: AcceptsArguments, larger_inputs: str) -> None:
    """Add --max-input-pixels to a parser, with a help text about images with more pixels."""
    parser.add_argument(
        "--max-input-pixels",
        type=positive_integer,
        default=MAX_INPUT_PIXELS,
        metavar="N",
        help=f"maximum number of pixels of one forward pass; {larger_inputs} (default: %(default)s)",
    )


def check_enlarged(size: Sequence[int], shorter: float, bound: int, option: str) -> None:
    """Check the number of pixels of an image after resizing its shorter side.

    Small files with extreme aspect ratios can become very large.

    Args:
        size: (width, height) of the image.
        shorter: the length of the shorter side after resizing.
        bound: the maximum number of pixels after resizing.
        option: the command-line option that sets the maximum.

    Raises:
        InputError: the resized image has more than `bound` pixels.
    """
    from glmix.errors import InputError

    factor = shorter / min(size)
    width, height = round(size[0] * factor), round(size[1] * factor)
    if width * height > bound:
        raise InputError(
            f"The image of {size[0]} x {size[1]} pixels would be resized to {width} x {height}, but at most "
            f"{bound:,} pixels are accepted; {option} raises the limit."
        )


def print_errors(command: str, errors: Sequence[Mapping[str, Any]], names: int = 20) -> None:
    """Print each distinct error once, with the first files it affects."""
    files: dict[str, list[str]] = {}
    for failure in errors:
        files.setdefault(failure["error"], []).append(printable(failure["file"]))
    for reason, found in files.items():
        more = f" and {len(found) - names} more" if len(found) > names else ""
        subject = found[0] if len(found) == 1 else f"{len(found)} files ({', '.join(found[:names])}{more})"
        print(f"glmix {command}: {subject}: {printable(reason)}", file=sys.stderr)


def exit_code(done: int, errors: Sequence[Any]) -> int:
    """Return 0 if all images were processed, 1 if some were, 2 if none was."""
    if not done:
        return 2
    return 1 if errors else 0
