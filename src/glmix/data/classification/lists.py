"""Lists of image files with labels, in CSV, JSON lines and Parquet files.

N  images      K  classes
"""

import fnmatch
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from timm.utils.misc import natural_key

from ...errors import InputError, nearest
from ..core.splits import split_of_name
from ..core.tables import Table, read_table
from .files import FileReader, Targets

__all__ = ["ListConfig", "TargetKind", "open_list", "read_class_map"]

TargetKind = Literal["class", "classes", "scores"]


@dataclass(frozen=True)
class ListConfig:
    """Location and columns of lists of images.

    Args:
        file: list of the images of all splits, `.csv`, `.tsv`, `.jsonl` or `.parquet`. None: one list per split, named
            by `train`, `val` and `test` of the source.
        path: column with the paths of the images. Relative paths start at `root` of the source, or without it at the
            folder of the list.
        label: column with the labels, or several columns, one per class. A name with `*` stands for all columns that
            match it.
        targets: `class`: each image has one class. `classes`: an image may have several classes or none; the labels are
            a list or a text with separators, or a 0 or 1 in each column. `scores`: soft labels, a score in each column;
            the scores of an image are divided by their sum.
        separator: text between several labels of one cell.
        split: column with the split of each image in `file`; None if it has none.
    """

    file: str | None = None
    path: str = "path"
    label: list[str] | str = "label"
    targets: TargetKind = "class"
    separator: str = ";"
    split: str | None = None

    def __post_init__(self) -> None:
        several = not isinstance(self.label, str) or "*" in self.label
        if several != (self.targets == "scores") and self.targets != "classes":
            wanted = "columns, one per class" if self.targets == "scores" else "one column"
            raise InputError(f"list.targets of {self.targets!r} needs {wanted} in list.label, got {self.label!r}.")
        if not self.separator:
            raise InputError("list.separator must not be empty.")
        if self.split is not None and self.file is None:
            raise InputError("list.split needs list.file, the list with this column.")


def read_class_map(path: str | os.PathLike[str]) -> dict[str, int]:
    """Return the numbers of the classes from a text file with one class name per line.

    Raises:
        InputError: if the file has no names, or the same name twice.
    """
    names = [line.strip() for line in Path(path).read_text(encoding="utf-8-sig").splitlines() if line.strip()]
    again = next((name for index, name in enumerate(names) if name in names[:index]), None)
    if again is not None or not names:
        problem = "no class names" if again is None else f"the class {again!r} twice"
        raise InputError(f"The class_map file {path} has {problem}: it must have one class name per line.")
    return {name: index for index, name in enumerate(names)}


def open_list(
    path: Path,
    config: ListConfig,
    root: Path | None,
    *,
    group: str | None = None,
    classes: Mapping[str, int] | None = None,
) -> tuple[FileReader, list[str] | None]:
    """Open a list of images.

    Args:
        path: list.
        config: columns of the list.
        root: folder that relative paths start at; None for the folder of the list.
        group: column with groups for a random split.
        classes: numbers of the classes; None takes the classes from the list, in natural order.

    Returns:
        The reader of all images of the list, and the split of each image if the list has a column for it.

    Raises:
        FileNotFoundError: if there is no such list.
        InputError: if a column or a file is missing, or a row is invalid. The message names the row.
    """
    table = read_table(path)
    root = path.parent if root is None else root
    files = _files(table, config, root)
    splits = _splits(table, config)
    groups = _groups(table, group) if group is not None else None
    columns = _label_columns(table, config)
    if columns is not None:
        if classes is not None and list(classes) != columns:
            raise InputError(
                f"{path} has the classes {', '.join(columns)} as columns, but the classes of the training data are "
                f"{', '.join(classes)}."
            )
        classes = {name: index for index, name in enumerate(columns)}
        targets = _values(table, columns, config.targets)
    else:
        labels = _labels(table, config)
        if classes is None:
            of_train = [splits is None or split == "train" for split in splits or labels]
            found = {name for row, is_train in zip(labels, of_train, strict=True) if is_train for name in row}
            if not found:
                raise InputError(f"{path} has no labels for training in the column {config.label!r}.")
            classes = {name: index for index, name in enumerate(sorted(found, key=natural_key))}
        targets = _encode(table, labels, classes, config.targets)
    return FileReader(root, files, targets, classes, groups), splits


def _files(table: Table, config: ListConfig, root: Path) -> list[str]:
    """Return the paths of the images. Raise InputError if one is missing or occurs twice."""
    if not root.is_dir():
        raise FileNotFoundError(f"There is no folder {root}: root must be the folder of the images.")
    files: list[str] = []
    rows: dict[str, int] = {}
    missing: list[int] = []
    for index, value in enumerate(table.column(config.path, "list.path")):
        name = "" if value is None else str(value).strip()
        if not name:
            raise InputError(f"{table.place(index)} has no path in the column {config.path!r}.")
        if name in rows:
            raise InputError(f"{table.place(index)} has the image {name} of {table.place(rows[name])} again.")
        if not os.path.isfile(os.path.join(root, name)):
            missing.append(index)
        rows[name] = index
        files.append(name)
    if missing:
        first = missing[0]
        raise InputError(
            f"{table.place(first)}: there is no file {os.path.join(root, files[first])}; {len(missing)} of "
            f"{len(files)} files are missing."
        )
    return files


def _splits(table: Table, config: ListConfig) -> list[str] | None:
    """Return the split of each row; None if the list has no column for it."""
    if config.split is None:
        return None
    found: list[str] = []
    for index, value in enumerate(table.column(config.split, "list.split")):
        split = split_of_name(str(value).strip())
        if split is None:
            raise InputError(
                f"{table.place(index)} has {value!r} in the column {config.split!r}; expected train, val or test."
            )
        found.append(split)
    return found


def _groups(table: Table, group: str) -> list[str]:
    groups = table.column(group, "split.group")
    for index, value in enumerate(groups):
        if _is_empty(value):
            raise InputError(f"{table.place(index)} has no group in the column {group!r}.")
    return [str(value) for value in groups]


def _label_columns(table: Table, config: ListConfig) -> list[str] | None:
    """Return the columns of the classes; None if one column has the labels."""
    if isinstance(config.label, str) and "*" not in config.label:
        return None
    patterns = [config.label] if isinstance(config.label, str) else config.label
    columns: list[str] = []
    for pattern in patterns:
        matching = [name for name in table.columns if fnmatch.fnmatchcase(name, pattern)] if "*" in pattern else []
        if not matching:
            table.column(pattern, "list.label")  # an error if there is none
            matching = [pattern]
        columns += [name for name in matching if name not in columns]
    return columns


def _is_empty(value: Any) -> bool:
    return value is None or (isinstance(value, float) and math.isnan(value)) or not str(value).strip()


def _labels(table: Table, config: ListConfig) -> list[tuple[str, ...]]:
    """Return the names of the classes of each image, from one column."""
    assert isinstance(config.label, str)
    several = config.targets == "classes"
    labels: list[tuple[str, ...]] = []
    for index, value in enumerate(table.column(config.label, "list.label")):
        is_list = isinstance(value, Sequence) and not isinstance(value, str)
        if is_list and not several:
            raise InputError(f"{table.place(index)} has a list of labels: set list.targets to classes.")
        if isinstance(value, dict):
            raise InputError(f"{table.place(index)} has an object as label; expected a text or a number.")
        if not is_list and _is_empty(value):
            if not several:
                raise InputError(f"{table.place(index)} has no label in the column {config.label!r}.")
            labels.append(())
            continue
        parts: Iterable[Any] = value if is_list else str(value).split(config.separator) if several else [value]
        names = tuple(dict.fromkeys(str(part).strip() for part in parts))
        if any(not name for name in names):
            raise InputError(f"{table.place(index)} has an empty label in {value!r}.")
        labels.append(names)
    return labels


def _encode(table: Table, labels: list[tuple[str, ...]], classes: Mapping[str, int], targets: TargetKind) -> Targets:
    """Return the class of each image (N,), or with `classes` a 0 or 1 for each class (N, K)."""
    for index, names in enumerate(labels):
        for name in names:
            if name not in classes:
                raise InputError(
                    f"{table.place(index)} has the class {name!r}, which is not among the {len(classes)} classes of "
                    f"the training data.{nearest(name, classes)}"
                )
    if targets == "class":
        return np.array([classes[names[0]] for names in labels], dtype=np.int64)
    encoded = np.zeros((len(labels), len(classes)), dtype=np.float32)
    for row, names in zip(encoded, labels, strict=True):
        row[[classes[name] for name in names]] = 1
    return encoded


def _values(table: Table, columns: list[str], targets: TargetKind) -> Targets:
    """Return the values of the class columns (N, K): 0 or 1, or scores with a sum of 1 per image."""
    accepted = "0 or 1" if targets == "classes" else "numbers of 0 or more"
    values = np.zeros((len(table.rows), len(columns)), dtype=np.float64)
    for place, name in enumerate(columns):
        for index, value in enumerate(table.column(name, "list.label")):
            try:
                number = float(value)
            except (TypeError, ValueError):
                number = math.nan
            if not (number in (0, 1) if targets == "classes" else 0 <= number < math.inf):
                raise InputError(f"{table.place(index)} has {value!r} in the column {name!r}; expected {accepted}.")
            values[index, place] = number
    if targets == "scores":
        sums = values.sum(1, keepdims=True)
        if not sums.all():
            index = int(np.flatnonzero(sums == 0)[0])
            raise InputError(f"{table.place(index)} has only scores of 0; at least one must be above 0.")
        values /= sums
    return values.astype(np.float32)
