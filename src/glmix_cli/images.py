"""The loop over images that predict, segment, detect and explain share.

An image that cannot be read, is too large or takes more memory than there is becomes an entry in a list of errors, and
the others are done. Everything else that is raised is a bug, or an error of the whole command, and is not caught here.
"""

import argparse
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from .inputs import find_images, open_image
from .printing import printable

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["MAX_INPUT_PIXELS", "MAX_PIXELS", "ImageLoop", "add_image_arguments", "at_least_one", "check_enlarged"]

MAX_PIXELS = 64_000_000
MAX_INPUT_PIXELS = 2048 * 2048


def at_least_one(text: str) -> int:
    """The type of an argument that is an integer from 1."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"a whole number from 1, got {text!r}")
    return int(text)


def add_image_arguments(parser: argparse.ArgumentParser, larger_inputs: str | None = None) -> None:
    """Add the images and the bounds on their size.

    Args:
        larger_inputs: what happens to an image in more pixels than the network takes at once; None for a command
            whose network takes every image in the same size.
    """
    parser.add_argument(
        "images", nargs="+", type=Path, metavar="IMAGE", help="an image, or a folder searched for images"
    )
    bounds = parser.add_argument_group("bounds on memory and time")
    bounds.add_argument(
        "--max-pixels",
        type=at_least_one,
        default=MAX_PIXELS,
        metavar="N",
        help="refuse to decode images with more pixels (default: %(default)s)",
    )
    if larger_inputs is not None:
        bounds.add_argument(
            "--max-input-pixels",
            type=at_least_one,
            default=MAX_INPUT_PIXELS,
            metavar="N",
            help=f"pixels that the network takes at once; {larger_inputs} (default: %(default)s)",
        )


class ImageLoop:
    """The images of one command: which there are, what went wrong with some, and the exit code.

    Args:
        command: the name of the command, for messages.
        paths: images, and folders searched for images.
        max_pixels: images with more are not decoded.
    """

    def __init__(self, command: str, paths: Sequence[Path], max_pixels: int) -> None:
        self.command, self.max_pixels = command, max_pixels
        self.errors: list[dict[str, str]] = []
        self.found = find_images(paths, self.errors)

    def __iter__(self) -> Iterator[Path]:
        for batch in self.batches(1):
            yield from batch

    def batches(self, size: int) -> Iterator[list[Path]]:
        """Yield all files, `size` at a time, and show the progress."""
        from tqdm import tqdm

        files = list(self.found)
        with tqdm(total=len(files), unit="image", disable=None) as bar:
            for start in range(0, len(files), size):
                batch = files[start : start + size]
                yield batch
                bar.update(len(batch))

    def open(self, file: Path, mode: str = "RGB", *, upright: bool = True, at_least: int | None = None) -> "Image":
        """Read an image within the bound; the arguments are those of `glmix.data.core.decoding.read_image`."""
        return open_image(file, mode, upright, max_pixels=self.max_pixels, at_least=at_least)

    @contextmanager
    def attempt(self, *files: Path) -> Iterator[None]:
        """Do something with images; note it as their error if they cannot be used or if memory runs out."""
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
        """Leave out a file that cannot be used, and note why."""
        del self.found[file]
        self.errors.append({"file": str(file), "error": reason})

    def say(self, file: Path, text: str) -> None:
        """Print a sentence about an image without disturbing the progress bar."""
        from tqdm import tqdm

        tqdm.write(f"glmix {self.command}: {printable(str(file))}: {text}", file=sys.stderr)

    def print_errors(self) -> None:
        """Print every error once, with all files that have it."""
        files: dict[str, list[str]] = {}
        for failure in self.errors:
            files.setdefault(failure["error"], []).append(printable(failure["file"]))
        for reason, names in files.items():
            subject = names[0] if len(names) == 1 else f"{len(names)} files ({', '.join(names)})"
            print(f"glmix {self.command}: {subject}: {printable(reason)}", file=sys.stderr)

    def exit_code(self, done: int) -> int:
        """0 where all images were done, 1 where some were, 2 where none was."""
        if not done:
            return 2
        return 1 if self.errors else 0


def check_enlarged(size: Sequence[int], shorter: float, bound: int, option: str) -> None:
    """Refuse an image (width, height) that has too many pixels once its shorter side is `shorter` pixels long.

    That is so with extreme aspect ratios, however small the file.
    """
    from glmix.errors import InputError

    factor = shorter / min(size)
    width, height = round(size[0] * factor), round(size[1] * factor)
    if width * height > bound:
        raise InputError(
            f"The image of {size[0]} x {size[1]} pixels would be processed at {width} x {height}, and at most "
            f"{bound:,} pixels are accepted; {option} raises the bound."
        )
