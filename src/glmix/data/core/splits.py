"""Where a split lies: its folder or file, also under a usual synonym of its name."""

import os
from pathlib import Path

__all__ = ["find_split", "split_path"]

_SYNONYMS = (("train", "training"), ("val", "valid", "validation", "eval"), ("test", "testing"))


def find_split(root: str | os.PathLike[str], split: str, suffix: str = "") -> Path | None:
    """Return the folder (or, with a suffix, the file) of a split, also under a usual synonym; None if there is none."""
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
    """Return what `find_split` finds, or raise FileNotFoundError with what there is instead."""
    if not Path(root).exists():
        raise FileNotFoundError(f"There is no {root}: root must be the folder that holds the data.")
    found = find_split(root, split, suffix)
    if found is None:
        there = sorted(entry.name for entry in Path(root).iterdir())[:8] if Path(root).is_dir() else []
        raise FileNotFoundError(f"{root} has no {split}{suffix}; it has {', '.join(there) or 'nothing'}.")
    return found
