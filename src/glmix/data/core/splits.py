"""Folders and files of data splits, including common synonyms of split names."""

import os
from pathlib import Path

from ..scenes import Split

__all__ = ["find_split", "split_of_name", "split_path"]

_SYNONYMS = (("train", "training"), ("val", "valid", "validation", "eval"), ("test", "testing"))
_SPLITS: tuple[Split, ...] = ("train", "val", "test")


def split_of_name(name: str) -> Split | None:
    """Return the split that a name or a synonym of it stands for, in any case; None if there is none."""
    found = zip(_SPLITS, _SYNONYMS, strict=True)
    return next((split for split, names in found if name.lower() in names), None)


def find_split(root: str | os.PathLike[str], split: str, suffix: str = "") -> Path | None:
    """Return the folder, or with a suffix the file, of a split or of a synonym of its name; None if there is none."""
    for names in _SYNONYMS:
        if split in names:
            candidates = (split, *(name for name in names if name != split))
            break
    else:
        candidates = (split,)
    for name in candidates:
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
