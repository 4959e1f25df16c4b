"""Images and masks of class ids on disk, paired by name. Error messages name the file and the value.

Every returned mask is (H, W) uint8 in the size of its upright image: a class index per pixel, or `IGNORE`.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args
from xml.etree import ElementTree

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ...errors import InputError
from ..core.image_files import read_ids, read_upright, upright_size
from ..core.splits import split_path

__all__ = ["IGNORE", "VOC_CLASSES", "MaskFiles", "MaskLayout", "open_masks"]

IGNORE = 255  # the ignore index: pixels without a label
MaskLayout = Literal["ade20k", "voc", "folder"]
Bytes = NDArray[np.uint8]

VOC_CLASSES = (
    *("background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow"),
    *("diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor"),
)


@dataclass(frozen=True)
class _Layout:
    """The folders of images and masks below the root, and whether the id 0 is a class or ignored."""

    images: str
    masks: str
    zero_is_class: bool


LAYOUTS: dict[MaskLayout, _Layout] = {
    "ade20k": _Layout("images", "annotations", False),
    "voc": _Layout("JPEGImages", "SegmentationClass", True),
    "folder": _Layout("images", "masks", True),
}


@dataclass(frozen=True, eq=False)
class MaskFiles:
    """The image and mask files of a split; see `open_masks`.

    Args:
        names: the path of each pair below its folder, without the suffix.
        images, masks: the files of each pair.
        class_names: the class names, by index.
        zero_is_class: whether the id k in a file is class k; otherwise the id 0 is ignored and k is class k - 1.
        instance_files: {name: instance mask}, for images that have one.
        box_files: {name: XML annotation of the objects}, for images that have one.
    """

    names: tuple[str, ...]
    images: tuple[Path, ...]
    masks: tuple[Path, ...]
    class_names: tuple[str, ...]
    zero_is_class: bool
    instance_files: dict[str, Path]
    box_files: dict[str, Path]

    @property
    def num_classes(self) -> int:
        return len(self.class_names)

    def __len__(self) -> int:
        return len(self.names)

    def name(self, index: int) -> str:
        return self.names[index]

    def image(self, index: int) -> Image.Image:
        """Load an image as RGB, upright according to its EXIF tag."""
        return read_upright(self.images[index])

    def mask(self, index: int) -> Bytes:
        """Load a mask as class indices and `IGNORE`, (H, W).

        Raises:
            InputError: the mask has an id that is not a class, or does not have the size of its image.
        """
        ids = self._read_ids(self.masks[index], index)
        first = 0 if self.zero_is_class else 1
        class_of_id = np.full(IGNORE + 1, -1, np.int16)
        class_of_id[[0, IGNORE]] = IGNORE
        class_of_id[first : first + self.num_classes] = range(self.num_classes)
        in_range = (ids >= 0) & (ids <= IGNORE)
        classes: NDArray[np.int16] = np.where(in_range, class_of_id[np.where(in_range, ids, 0)], -1)
        if classes.min() < 0:
            row, column = np.argwhere(classes < 0)[0]
            ignored = f"{IGNORE} is" if self.zero_is_class else f"0 and {IGNORE} are"
            raise InputError(
                f"The mask {self.masks[index]} has the class id {ids[row, column]} (row {row}, column {column}). With "
                f"{self.num_classes} classes, ids go from {first} to {first + self.num_classes - 1}, and {ignored} "
                "ignored."
            )
        return classes.astype(np.uint8)

    def instances(self, index: int) -> Bytes | None:
        """Load an instance mask (H, W): the object number per pixel, 0 for none, or `IGNORE`. None without a file."""
        path = self.instance_files.get(self.names[index])
        if path is None:
            return None
        ids = self._read_ids(path, index)
        if ids.min() < 0 or ids.max() > IGNORE:
            raise InputError(f"{path} has the object number {ids.max()}; object numbers must be from 0 to {IGNORE}.")
        return ids.astype(np.uint8)

    def labels(self, index: int) -> set[int]:
        """Return the classes in an image without the background: from its XML annotation, otherwise from its mask."""
        annotation = self.box_files.get(self.names[index])
        if annotation is None:
            return set(np.unique(self.mask(index)).tolist()) - {IGNORE} - ({0} if self.zero_is_class else set())
        try:
            names = ElementTree.parse(annotation).findall("object/name")
        except ElementTree.ParseError as error:
            raise InputError(f"{annotation} is not valid XML ({error}).") from error
        labels = set()
        for name in names:
            if name.text not in self.class_names:
                known = ", ".join(self.class_names)
                raise InputError(f"{annotation} has an object {name.text!r}; the classes are {known}.")
            labels.add(self.class_names.index(name.text))
        return labels

    def check(self, limit: int | None = None) -> None:
        """Read all masks, or `limit` masks at equal intervals, and raise InputError for the first invalid one."""
        count = len(self) if limit is None else min(limit, len(self))
        for k in range(count):
            self.mask(k * len(self) // count)

    def _read_ids(self, path: Path, index: int) -> NDArray[np.int32]:
        """Read the ids of a mask (H, W), which must have the size of its image."""
        ids = read_ids(path)
        size, rotated = upright_size(self.images[index])
        if ids.shape[::-1] != size:
            reason = " after rotation by its EXIF tag; a mask must fit the upright image" if rotated else ""
            raise InputError(
                f"The mask {path} is {ids.shape[1]} x {ids.shape[0]} pixels, but its image {self.images[index]} is "
                f"{size[0]} x {size[1]}{reason}."
            )
        return ids


def open_masks(
    root: str | os.PathLike[str],
    split: str,
    layout: MaskLayout = "ade20k",
    *,
    classes: int | Sequence[str] | None = None,
    images: str | os.PathLike[str] | None = None,
    masks: str | os.PathLike[str] | None = None,
    zero_is_class: bool | None = None,
) -> MaskFiles:
    """Pair the images and masks of a split by name. The content of masks is validated when they are read.

    Layouts:
        `ade20k`: `images/training/*` and `annotations/training/*`, with class names in `objectInfo150.txt`. The id 0
            is ignored.
        `voc`: `JPEGImages`, `SegmentationClass`, `ImageSets/Segmentation/SPLIT.txt` and optionally
            `SegmentationObject` and `Annotations`. The id 0 is the class `background`. `root` may be the folder that
            contains `VOCdevkit`.
        `folder`: `images/train/*` and `masks/train/*`. The id 0 is a class.

    Args:
        root: the root folder of the data set.
        split: `train`, `val` or `test`; folders may have a common synonym such as `validation`. With `voc`, the name
            of any list.
        layout: the layout of the folders.
        classes: class names in the order of their indices, or the number of classes. None reads them from the table
            of `ade20k` or from `classes.txt` below the root, one name per line; the default of `voc` is the classes of
            Pascal VOC.
        images, masks: folders that replace those of the layout, below the root or elsewhere.
        zero_is_class: whether the id 0 is a class; None follows the layout.

    Raises:
        FileNotFoundError: a folder, a list, an image or a mask is missing.
        InputError: the layout, the classes or the list are invalid.
    """
    if layout not in get_args(MaskLayout):
        raise InputError(f"layout must be one of {', '.join(get_args(MaskLayout))}, got {layout!r}.")
    folder, defaults = Path(root), LAYOUTS[layout]
    if not folder.is_dir():
        raise FileNotFoundError(f"There is no folder {folder}: set root to the folder of the data set.")
    if layout == "voc":
        folder = next((f for f in (folder, *sorted(folder.glob("VOCdevkit/VOC2*"))) if _is_voc(f)), folder)
    image_folder, mask_folder = folder / (images or defaults.images), folder / (masks or defaults.masks)
    for kind, path in (("images", image_folder), ("masks", mask_folder)):
        if not path.is_dir():
            content = ", ".join(sorted(entry.name for entry in folder.iterdir())[:8]) or "nothing"
            raise FileNotFoundError(f"The {kind} of the layout {layout} must be in {path}, but {folder} has {content}.")
    if layout == "voc":
        listed: list[str] | None = _read_list(folder, split)
    else:
        listed = None
        image_folder, mask_folder = split_path(image_folder, split), split_path(mask_folder, split)
    image_files, mask_files = _files_by_name(image_folder), _files_by_name(mask_folder)
    names = tuple(sorted(image_files) if listed is None else listed)
    _check_pairs(names, image_files, mask_files, image_folder, mask_folder, listed=listed is not None)
    instance_folder, box_folder = folder / "SegmentationObject", folder / "Annotations"
    return MaskFiles(
        names=names,
        images=tuple(image_files[name] for name in names),
        masks=tuple(mask_files[name] for name in names),
        class_names=_class_names(folder, layout, classes),
        zero_is_class=defaults.zero_is_class if zero_is_class is None else zero_is_class,
        instance_files=_files_by_name(instance_folder) if layout == "voc" and instance_folder.is_dir() else {},
        box_files={file.stem: file for file in box_folder.glob("*.xml")} if layout == "voc" else {},
    )


def _is_voc(folder: Path) -> bool:
    return (folder / "ImageSets" / "Segmentation").is_dir()


def _read_list(folder: Path, split: str) -> list[str]:
    """Return the names in the list of a split."""
    lists = folder / "ImageSets" / "Segmentation"
    file = lists / f"{split}.txt"
    if not file.is_file():
        existing = ", ".join(sorted(path.stem for path in lists.glob("*.txt"))) or "none"
        raise FileNotFoundError(f"There is no list {file}; {lists} has {existing}.")
    names = file.read_text().split()
    if len(set(names)) < len(names):
        duplicate = next(name for k, name in enumerate(names) if name in names[:k])
        raise InputError(f"{file} lists {duplicate} twice.")
    return names


def _files_by_name(folder: Path) -> dict[str, Path]:
    """Return {path below the folder without suffix: file} of all files with the suffix of an image format."""
    suffixes = Image.registered_extensions()
    by_name: dict[str, Path] = {}
    for path, _, files in os.walk(folder):
        for file in sorted(files):
            stem, suffix = os.path.splitext(file)
            if suffix.lower() not in suffixes or file.startswith("."):
                continue
            name = Path(path, stem).relative_to(folder).as_posix()
            if name in by_name:
                raise InputError(f"{folder} has two files named {name}: {by_name[name].name} and {file}.")
            by_name[name] = Path(path, file)
    return by_name


def _check_pairs(
    names: Sequence[str],
    images: dict[str, Path],
    masks: dict[str, Path],
    image_folder: Path,
    mask_folder: Path,
    *,
    listed: bool,
) -> None:
    """Raise FileNotFoundError if an image has no mask or a mask has no image."""
    if not names:
        raise FileNotFoundError(f"There are no images in {image_folder}." if not listed else "The list is empty.")
    unpaired = [
        ("image", "mask", [name for name in names if name not in masks], mask_folder),
        ("mask", "image", [name for name in (names if listed else sorted(masks)) if name not in images], image_folder),
    ]
    for kind, partner, missing, folder in unpaired:
        if missing:
            more = (
                f", {missing[1]} and {len(missing) - 2} more"
                if len(missing) > 2
                else "".join(f", {name}" for name in missing[1:])
            )
            raise FileNotFoundError(f"The {kind} {missing[0]}{more} has no {partner} of that name in {folder}.")


def _class_names(folder: Path, layout: MaskLayout, classes: int | Sequence[str] | None) -> tuple[str, ...]:
    """Return the class names that the caller gives, or those of the data set."""
    tables, names_file = sorted(folder.glob("objectInfo*.txt")), folder / "classes.txt"
    if isinstance(classes, int):
        names = [f"class {k}" for k in range(classes)]
    elif classes is not None:
        names = list(classes)
    elif layout == "ade20k" and tables:
        names = _read_class_table(tables[0])
    elif names_file.is_file():
        names = [line.strip() for line in names_file.read_text().splitlines() if line.strip()]
    elif layout == "voc":
        names = list(VOC_CLASSES)
    else:
        raise InputError(
            f"The classes of {folder} are unknown: set classes to their names or their number, or write the file "
            f"{names_file} with one name per line, in the order of their ids."
        )
    if not 1 <= len(names) < IGNORE or len(set(names)) < len(names):
        raise InputError(f"There must be 1 to {IGNORE - 1} classes with unique names, got {len(names)}: {names[:9]}.")
    return tuple(names)


def _read_class_table(path: Path) -> list[str]:
    """Return the first name of each class in ADE20K's table: tab-separated lines from an id to the names."""
    rows = [line.split("\t") for line in path.read_text().splitlines()[1:] if line.strip()]
    if [row[0].strip() for row in rows] != [str(k) for k in range(1, len(rows) + 1)] or any(
        len(row) < 2 for row in rows
    ):
        raise InputError(
            f"{path} is not a table of classes: after the header, each line must be tab-separated, start with an id "
            "(1, 2, 3, ... without a gap) and end with the class name."
        )
    names = [row[-1].strip() for row in rows]
    first_names = [name.split(",")[0] for name in names]
    return first_names if len(set(first_names)) == len(first_names) else names
