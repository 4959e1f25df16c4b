"""Text for people: any file name on any terminal."""

import io
import sys

__all__ = ["accept_any_text", "printable", "printable_lines"]


def printable(text: str) -> str:
    """Escape every character that a terminal would not show as it is: newlines, control sequences, invalid bytes."""
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode("ascii") for char in text)


def printable_lines(text: str) -> str:
    """Escape as `printable` does, and keep the line breaks of a message."""
    return "\n".join(map(printable, text.split("\n")))


def accept_any_text() -> None:
    """Print characters that the encoding of the terminal lacks as escapes, instead of raising an error."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # not in a notebook, which takes all text
            stream.reconfigure(errors="backslashreplace")
