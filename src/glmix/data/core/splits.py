"""Folders and files of data splits, including common synonyms of split names."""

import os
from pathlib import Path
from typing import Literal

__all__ = ["Split", "find_split", "split_names", "split_of_name", "split_path"]

Split = Literal["train", "val", "test"]

_SYNONYMS = (("train", "training"), ("val", "valid", "validation", "eval"), ("test", "testing"))
_SPLITS: tuple[Split, ...] = ("train", "val", "test")


def split_of_name(name: str) -> Split | None:
    """Return the split with this name or synonym, in upper or lower case; None if there is none."""
    found = zip(_SPLITS, _SYNONYMS, strict=True)
    return next((split for split, names in found if name.lower() in names), None)


def split_names(name: str) -> tuple[str, ...]:
    """Return the name of a split and its synonyms."""
    names = next((names for names in _SYNONYMS if name in names), ())
    return (name, *(other for other in names if other != name))


def find_split(root: str | os.PathLike[str], split: str, suffix: str = "") -> Path | None:
    """Return the folder, or with a suffix the file, of a split or of a synonym of its name; None if there is none."""
    for name in split_names(split):
        for path in (Path(root, name + suffix), Path(root, name)):
            if path.exists():
                return path
    return None


def split_path(root: str | os.PathLike[str], split: str, suffix: str = "") -> Path:
    """Return the path from `find_split`. Raise FileNotFoundError, with the names that exist, if there is none."""
    if not Path(root).exists():
        raise FileNotFoundError(f"There is no {root}: root must be the folder of the data.")
    found = find_split(root, split, suffix)
    if found is None:
        existing = sorted(entry.name for entry in Path(root).iterdir())[:8] if Path(root).is_dir() else []
        raise FileNotFoundError(f"{root} has no {split}{suffix}; it has {', '.join(existing) or 'nothing'}.")
    return found
