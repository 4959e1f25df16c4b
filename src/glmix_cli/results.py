"""A name for the results of each image."""

import hashlib
import os
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

__all__ = ["result_names", "shortened"]

LONGEST = 255  # bytes: what file systems allow for a name


def result_names(found: Mapping[Path, Path], room: int = 0) -> dict[Path, Path]:
    """Name the results of each image.

    Args:
        found: {image: its path below the folder that was given}, as `find_images` returns it.
        room: bytes that must be left for what is appended to a name.

    Returns:
        {image: its path below the folder without the suffix, or with it where two images differ only in that}

    Raises:
        InputError: two images of different folders would have results of the same name.
    """
    from glmix.errors import InputError

    count = Counter(name.with_suffix("") for name in found.values())
    names = {file: name.with_suffix("") if count[name.with_suffix("")] == 1 else name for file, name in found.items()}
    taken: dict[Path, Path] = {}
    for file, name in names.items():
        if name in taken:
            raise InputError(f"{taken[name]} and {file} would have results of the same name: give them apart.")
        taken[name] = file
    return {file: name.with_name(shortened(name.name, room)) for file, name in names.items()}


def shortened(name: str, room: int) -> str:
    """Shorten a file's name, where it is too long, to leave `room` bytes; a hash keeps different names different."""
    encoded = os.fsencode(name)
    if len(encoded) + room <= LONGEST:
        return name
    end = "-" + hashlib.blake2b(encoded, digest_size=6).hexdigest()
    start = encoded[: LONGEST - room - len(end)].decode("utf-8", "ignore")  # drops half of a character
    return os.fsdecode(start.encode()) + end
