"""The image loop that segment, detect and explain share, and the error messages of all commands on images.

If an image cannot be read, is too large or exhausts the memory, the loop adds it to a list of errors and continues with
the next image. All other exceptions are bugs or errors of the whole command, and are not caught here.
"""

import argparse
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .inputs import open_image
from .printing import printable

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = [
    "MAX_INPUT_PIXELS",
    "MAX_PIXELS",
    "ImageLoop",
    "add_image_arguments",
    "add_input_limit",
    "check_enlarged",
    "exit_code",
    "positive_integer",
    "print_errors",
]

MAX_PIXELS = 64_000_000
MAX_INPUT_PIXELS = 2048 * 2048


def positive_integer(text: str) -> int:
    """Parse a command-line argument that must be an integer of at least 1."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected an integer of at least 1, got {text!r}")
    return int(text)


def add_image_arguments(parser: argparse.ArgumentParser, larger_inputs: str | None = None) -> None:
    """Add the image paths and the limits on image sizes to a parser.

    Args:
        parser: the parser of a command.
        larger_inputs: help text about images with more pixels than --max-input-pixels; None for a command whose
            network always gets inputs of the same size, which has no such option.
    """
    parser.add_argument(
        "images",
        nargs="+",
        type=Path,
        metavar="IMAGE",
        help="an image file, or a folder that is searched recursively for images",
    )
    limits = parser.add_argument_group("limits on memory and time")
    limits.add_argument(
        "--max-pixels",
        type=positive_integer,
        default=MAX_PIXELS,
        metavar="N",
        help="report an error for images with more pixels, without decoding them (default: %(default)s)",
    )
    if larger_inputs is not None:
        add_input_limit(limits, larger_inputs)


def add_input_limit(parser: argparse._ActionsContainer, larger_inputs: str) -> None:
    """Add --max-input-pixels to a parser, with a help text about images with more pixels."""
    parser.add_argument(
        "--max-input-pixels",
        type=positive_integer,
        default=MAX_INPUT_PIXELS,
        metavar="N",
        help=f"maximum number of pixels of one forward pass; {larger_inputs} (default: %(default)s)",
    )


class ImageLoop:
    """The images of one command, the errors of those that failed, and the exit code.

    Args:
        command: the name of the command, for messages.
        paths: image files, and folders that are searched for images.
        max_pixels: the maximum number of pixels of an image; larger images are not decoded.
    """

    def __init__(self, command: str, paths: Sequence[Path], max_pixels: int) -> None:
        from glmix.inference import find_images

        self.command, self.max_pixels = command, max_pixels
        self.errors: list[dict[str, str]] = []
        self.found = find_images(paths, self.errors)

    def __iter__(self) -> Iterator[Path]:
        for batch in self.batches(1):
            yield from batch

    def batches(self, size: int) -> Iterator[list[Path]]:
        """Yield all files in batches of `size` and show a progress bar."""
        from tqdm import tqdm

        files = list(self.found)
        with tqdm(total=len(files), unit="image", disable=None) as bar:
            for start in range(0, len(files), size):
                batch = files[start : start + size]
                yield batch
                bar.update(len(batch))

    def open(self, file: Path, mode: str = "RGB", *, upright: bool = True, at_least: int | None = None) -> "Image":
        """Read an image of at most `max_pixels`; see `glmix.data.core.decoding.read_image` for the arguments."""
        return open_image(file, mode, upright, max_pixels=self.max_pixels, at_least=at_least)

    @contextmanager
    def attempt(self, *files: Path) -> Iterator[None]:
        """Record an InputError or an out-of-memory error in the body as an error of these files, and continue."""
        from glmix.errors import InputError
        from glmix.memory import is_out_of_memory

        try:
            yield
        except InputError as error:
            reason = str(error)
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            reason = f"out of memory ({str(error).strip().partition(chr(10))[0] or type(error).__name__})"
        else:
            return
        self.errors += [{"file": str(file), "error": reason} for file in files]

    def skip(self, file: Path, reason: str) -> None:
        """Remove a file from the loop and record the reason as its error."""
        del self.found[file]
        self.errors.append({"file": str(file), "error": reason})

    def notify(self, file: Path, text: str) -> None:
        """Print a message about an image to stderr, above the progress bar."""
        from tqdm import tqdm

        tqdm.write(f"glmix {self.command}: {printable(str(file))}: {text}", file=sys.stderr)

    def print_errors(self) -> None:
        """Print each distinct error once, with the affected files."""
        print_errors(self.command, self.errors)

    def exit_code(self, done: int) -> int:
        """Return the exit code of the command for the number of images that were processed."""
        return exit_code(done, self.errors)


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
