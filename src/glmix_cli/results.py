"""A name for the results of each image."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from .inputs import find_images

__all__ = ["result_names"]


def result_names(paths: Sequence[Path], errors: list[dict[str, str]]) -> dict[Path, Path]:
    """{image: what its results are called}: its path below the folder that was given, with its suffix where two would
    be called the same otherwise."""
    from glmix.errors import InputError

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
            raise InputError(f"{taken[name]} and {file} would have results of the same name: give them apart.")
        taken[name] = file
    return names
