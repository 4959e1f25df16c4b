"""Training images with image labels and without masks: one folder per class, or a file of labels."""

import json
import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from ...data.classification.readers import open_folder
from ...data.core.image_files import read_upright
from ...data.core.tables import TABLE_SUFFIXES, read_table
from ...data.segmentation.files import IGNORE, MaskFiles
from ...errors import InputError

__all__ = ["BACKGROUND", "ImagesWithLabels", "LabelFiles", "LabelSource", "read_labels"]

BACKGROUND = "background"
COLUMNS, SEPARATOR = ("file", "labels"), ";"


@dataclass(frozen=True, eq=False)
class LabelFiles:
    """Images with image labels.

    Args:
        names: names of the images: their paths relative to the folder, without suffix.
        images: paths of the image files.
        class_names: names of the classes from index 0, which is the background.
        shown: for each image, the indices of its classes, from 1.
    """

    names: tuple[str, ...]
    images: tuple[Path, ...]
    class_names: tuple[str, ...]
    shown: tuple[frozenset[int], ...]

    @property
    def num_classes(self) -> int:
        """Number of classes, with the background."""
        return len(self.class_names)

    def __len__(self) -> int:
        return len(self.names)

    def image(self, index: int) -> Image.Image:
        """Read an image as RGB, with its EXIF orientation applied."""
        return read_upright(self.images[index])

    def labels(self, index: int) -> set[int]:
        """Return the indices of the classes in an image."""
        return set(self.shown[index])


ImagesWithLabels = LabelFiles | MaskFiles


@dataclass(frozen=True)
class LabelSource:
    """Location of images with image labels.

    Args:
        folder: folder of the images. Without `labels`, each subfolder is a class and holds the images of this class
            (ImageFolder).
        labels: a CSV, JSON, JSON Lines or Parquet file with the class names of each image; see `read_labels`.
        classes: class names in the order of their indices from 1, without the background. None: the names in the
            labels, in alphabetical order.
    """

    folder: str
    labels: str | None = None
    classes: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        if self.classes is not None:
            object.__setattr__(self, "classes", tuple(self.classes))

    def open(self, classes: Sequence[str] | None = None) -> LabelFiles:
        """List the images with their labels. The order is random but fixed, so that the last images cover all classes.

        Args:
            classes: class names to use if `self.classes` is None, without the background.

        Raises:
            FileNotFoundError: the folder, the file of labels or an image is missing.
            InputError: the labels are malformed, or name an unknown class.
        """
        folder = Path(self.folder)
        if not folder.is_dir():
            raise FileNotFoundError(f"The folder {folder} does not exist: data.images.folder must hold the images.")
        found = _labels_of_folders(folder) if self.labels is None else read_labels(Path(self.labels))
        if self.labels is not None:
            _check_files(folder, found, Path(self.labels))
        names = self._class_names(found, classes)
        files = sorted(found)
        random.Random(0).shuffle(files)
        return LabelFiles(
            names=tuple(_without_suffix(files)),
            images=tuple(folder / file for file in files),
            class_names=(BACKGROUND, *names),
            shown=tuple(frozenset(names.index(label) + 1 for label in found[file]) for file in files),
        )

    def _class_names(self, found: dict[str, list[str]], classes: Sequence[str] | None) -> list[str]:
        """Return the class names without the background, and check that the labels name no other class."""
        known = self.classes if self.classes is not None else classes
        named = sorted({label for labels in found.values() for label in labels})
        where = self.labels or self.folder
        if BACKGROUND in named or (known is not None and BACKGROUND in known):
            raise InputError(f"{where} has a class named {BACKGROUND!r}, a name that is reserved.")
        unknown = [] if known is None else [name for name in named if name not in known]
        if unknown:
            raise InputError(f"{where} has the class {unknown[0]!r}; the classes are {', '.join(known or ())}.")
        names = named if known is None else list(known)
        if not 1 <= len(names) < IGNORE - 1:
            raise InputError(f"{where} has {len(names)} classes; 1 to {IGNORE - 2} are accepted.")
        return names


def read_labels(path: Path) -> dict[str, list[str]]:
    """Read the class names of images from a file.

    `.csv`, `.tsv`, `.jsonl` and `.parquet`: a table with the columns `file` and `labels`, see `read_table`. The labels
    are a list, or a text with semicolons between the classes. `.json`: one object,
    `{"a.jpg": ["cat", "dog"], ...}`. An image without any class has an empty text or list.

    Returns:
        The class names per file; paths are relative to the folder of the images.

    Raises:
        InputError: the file is malformed; the message names the line.
    """
    known = (".json", *TABLE_SUFFIXES)
    if path.suffix not in known:
        raise InputError(f"{path} has the suffix {path.suffix!r}; a file of labels has one of {', '.join(known)}.")
    found: dict[str, list[str]] = {}
    for where, file, labels in _json_entries(path) if path.suffix == ".json" else _table_rows(path):
        if not isinstance(file, str) or not file:
            raise InputError(f"{where}: the file name is {file!r}; it must be a non-empty string.")
        if not isinstance(labels, list) or not all(isinstance(label, str) and label for label in labels):
            raise InputError(f"{where}: the labels of {file} are {labels!r}; they must be a list of class names.")
        name = Path(file).as_posix()
        if Path(file).is_absolute() or ".." in Path(file).parts:
            raise InputError(f"{where}: {file} must be a path below the folder of the images, without '..'.")
        if name in found:
            raise InputError(f"{where}: {file} is listed twice; write all its classes in one entry.")
        found[name] = sorted(set(labels))
    if not found:
        raise InputError(f"{path} lists no image.")
    return found


def _table_rows(path: Path) -> Iterator[tuple[str, Any, Any]]:
    """Yield the line, file name and labels of each row of a table."""
    table = read_table(path)
    for name in COLUMNS:
        if name not in table.columns:
            raise InputError(f"{path} has the columns {', '.join(table.columns)}; it needs {' and '.join(COLUMNS)}.")
    for index, row in enumerate(table.rows):
        file, labels = (row.get(name) for name in COLUMNS)
        if isinstance(labels, str):
            labels = [label.strip() for label in labels.split(SEPARATOR) if label.strip()]
        yield table.place(index), file.strip() if isinstance(file, str) else file, labels


def _json_entries(path: Path) -> Iterator[tuple[str, Any, Any]]:
    """Yield the path, file name and labels of each entry of a JSON object."""
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not UTF-8 text ({error}).") from error
    except json.JSONDecodeError as error:
        raise InputError(f"{path} is not valid JSON ({error}).") from error
    if not isinstance(content, dict):
        raise InputError(f'{path} contains a {type(content).__name__}; it must be an object {{"a.jpg": ["cat"], ...}}.')
    for file, labels in content.items():
        yield str(path), file, labels


def _labels_of_folders(folder: Path) -> dict[str, list[str]]:
    """Return `{file relative to the folder: [name of its class folder]}`."""
    files = [Path(file) for file in open_folder(folder).files]
    return {file.as_posix(): [file.parts[0]] for file in files}


def _check_files(folder: Path, files: Iterable[str], labels: Path) -> None:
    """Raise FileNotFoundError if a file of labels lists an image that is missing."""
    missing = [file for file in files if not (folder / file).is_file()]
    if missing:
        more = f" and {len(missing) - 1} more files" if len(missing) > 1 else ""
        raise FileNotFoundError(f"{labels} lists {missing[0]}{more}, missing in the folder {folder}.")


def _without_suffix(files: Sequence[str]) -> list[str]:
    """Return file names without suffix, which also name the masks, and check that they are unique."""
    names: dict[str, str] = {}
    for file in files:
        name = Path(file).with_suffix("").as_posix()
        if name in names:
            raise InputError(f"The images {names[name]} and {file} would have the same mask: rename one of them.")
        names[name] = file
    return list(names)
