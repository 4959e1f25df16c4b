"""Safe output of arbitrary text, such as file names, on any terminal."""

import io
import sys

__all__ = ["accept_any_text", "printable", "printable_lines"]


def printable(text: str) -> str:
    """Escape all characters that are not printable: newlines, control sequences, invalid bytes."""
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode("ascii") for char in text)


def printable_lines(text: str) -> str:
    """Escape all characters that are not printable, except line breaks."""
    return "\n".join(map(printable, text.split("\n")))


def accept_any_text() -> None:
    """Make stdout and stderr print escapes, instead of raising an error, for characters that the encoding lacks."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # notebooks accept all text
            stream.reconfigure(errors="backslashreplace")
