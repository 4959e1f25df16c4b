"""What commands write: a name for the results of each image, and files that are whole or not there."""

import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from .inputs import find_images

__all__ = ["result_names", "write_whole"]


def result_names(paths: Sequence[Path], errors: list[dict[str, str]]) -> dict[Path, Path]:
    """{image: what its results are called}: its path below the folder that was given, with its suffix where two would
    be called the same otherwise."""
    whole = {
        file: file.relative_to(path) if path.is_dir() else Path(file.name)
        for path in paths
        for file in find_images([path], errors)
    }
    count = Counter(name.with_suffix("") for name in whole.values())
    names = {file: name.with_suffix("") if count[name.with_suffix("")] == 1 else name for file, name in whole.items()}
    taken: dict[Path, Path] = {}
    for file, name in names.items():
        if name in taken:
            raise ValueError(f"{taken[name]} and {file} would have results of the same name: give them apart.")
        taken[name] = file
    return names


def write_whole(path: Path, content: bytes) -> None:
    """Write a file that is whole or not there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.part")
    try:
        part.write_bytes(content)
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)
