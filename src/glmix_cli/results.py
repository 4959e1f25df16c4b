"""File names of the results for each image."""

import hashlib
import os
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

__all__ = ["result_names", "shortened"]

LONGEST = 255  # bytes: the limit of common file systems for a file name


def result_names(found: Mapping[Path, Path], room: int = 0) -> dict[Path, Path]:
    """Return the relative path of the results for each image.

    Args:
        found: {image: its path relative to the given folder}, as returned by `find_images`.
        room: the number of bytes to keep free for a suffix.

    Returns:
        {image: its relative path without the suffix, or with it if two images differ only in their suffix}

    Raises:
        InputError: the results of two images from different folders would have the same name.
    """
    from glmix.errors import InputError

    count = Counter(name.with_suffix("") for name in found.values())
    names = {file: name.with_suffix("") if count[name.with_suffix("")] == 1 else name for file, name in found.items()}
    taken: dict[Path, Path] = {}
    for file, name in names.items():
        if name in taken:
            raise InputError(
                f"The results of {taken[name]} and {file} would have the same name; process them in separate commands."
            )
        taken[name] = file
    return {file: name.with_name(shortened(name.name, room)) for file, name in names.items()}


def shortened(name: str, room: int) -> str:
    """Shorten a file name that is too long so that `room` bytes are left; a hash keeps shortened names unique."""
    encoded = os.fsencode(name)
    if len(encoded) + room <= LONGEST:
        return name
    end = "-" + hashlib.blake2b(encoded, digest_size=6).hexdigest()
    start = encoded[: LONGEST - room - len(end)].decode("utf-8", "ignore")  # drops an incomplete character
    return os.fsdecode(start.encode()) + end
