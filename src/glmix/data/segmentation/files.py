"""Images with a mask of class ids each, on disk: paired by name, with what is wrong told by file and number.

Every mask that is handed out is (H, W) uint8, of the size of its upright image: the index of a class at each pixel, or
`IGNORE`.
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

IGNORE = 255  # says nothing about its pixel
MaskLayout = Literal["ade20k", "voc", "folder"]
Bytes = NDArray[np.uint8]

VOC_CLASSES = (
    *("background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow"),
    *("diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor"),
)


@dataclass(frozen=True)
class _Conventions:
    """Args: folders of images and masks under the root, and whether the id 0 is a class or says nothing."""

    images: str
    masks: str
    zero_is_class: bool


CONVENTIONS: dict[MaskLayout, _Conventions] = {
    "ade20k": _Conventions("images", "annotations", False),
    "voc": _Conventions("JPEGImages", "SegmentationClass", True),
    "folder": _Conventions("images", "masks", True),
}


@dataclass(frozen=True, eq=False)
class MaskFiles:
    """Pairs of an image and its mask; see `open_masks`.

    Args:
        names: of the pairs: the path below the folder, without its suffix.
        images, masks: the files.
        class_names: of the indices from 0.
        zero_is_class: whether the id 0 in a file is class 0, and id k class k; otherwise 0 says nothing and k is
            class k - 1.
        instance_files: masks that number the objects, by name, where there are such.
        box_files: descriptions of the objects, by name, where there are such.
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
        """RGB, upright."""
        return read_upright(self.images[index])

    def mask(self, index: int) -> Bytes:
        """(H, W): class indices and `IGNORE`."""
        ids = self._fitting(self.masks[index], index)
        first = 0 if self.zero_is_class else 1
        table = np.full(IGNORE + 1, -1, np.int16)
        table[[0, IGNORE]] = IGNORE
        table[first : first + self.num_classes] = range(self.num_classes)
        inside = (ids >= 0) & (ids <= IGNORE)
        classes: NDArray[np.int16] = np.where(inside, table[np.where(inside, ids, 0)], -1)
        if classes.min() < 0:
            row, column = np.argwhere(classes < 0)[0]
            nothing = f"{IGNORE} says" if self.zero_is_class else f"0 and {IGNORE} say"
            raise InputError(
                f"The mask {self.masks[index]} has the class id {ids[row, column]} (row {row}, column {column}). With "
                f"{self.num_classes} classes ids go from {first} to {first + self.num_classes - 1}, and {nothing} "
                "nothing about a pixel."
            )
        return classes.astype(np.uint8)

    def instances(self, index: int) -> Bytes | None:
        """(H, W): the number of the object at each pixel, 0 for none and `IGNORE`; None where no file tells."""
        path = self.instance_files.get(self.names[index])
        if path is None:
            return None
        ids = self._fitting(path, index)
        if ids.min() < 0 or ids.max() > IGNORE:
            raise InputError(f"{path} has the object number {ids.max()}; numbers go from 0 to {IGNORE}.")
        return ids.astype(np.uint8)

    def labels(self, index: int) -> set[int]:
        """The classes that an image shows, without that of the background: as the file that describes its objects
        says, or else as its mask does."""
        described = self.box_files.get(self.names[index])
        if described is None:
            return set(np.unique(self.mask(index)).tolist()) - {IGNORE} - ({0} if self.zero_is_class else set())
        try:
            names = ElementTree.parse(described).findall("object/name")
        except ElementTree.ParseError as error:
            raise InputError(f"{described} is no XML ({error}).") from error
        found = set()
        for name in names:
            if name.text not in self.class_names:
                raise InputError(f"{described} has an object {name.text!r}; classes are {', '.join(self.class_names)}.")
            found.add(self.class_names.index(name.text))
        return found

    def check(self, limit: int | None = None) -> None:
        """Read masks, all or so many at equal distances, and raise ValueError about the first that is wrong."""
        count = len(self) if limit is None else min(limit, len(self))
        for k in range(count):
            self.mask(k * len(self) // count)

    def _fitting(self, path: Path, index: int) -> NDArray[np.int32]:
        """The ids of a mask, which must have the size of its image."""
        ids = read_ids(path)
        size, turned = upright_size(self.images[index])
        if ids.shape[::-1] != size:
            why = " once its EXIF tag has turned it upright; a mask must fit the upright image" if turned else ""
            raise InputError(
                f"The mask {path} is {ids.shape[1]} x {ids.shape[0]} pixels, but its image {self.images[index]} is "
                f"{size[0]} x {size[1]}{why}."
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
    """Pair images and masks by their names. What is missing is an error here; masks are looked at as they are read.

    `ade20k`: `images/training/*` and `annotations/training/*`, names of classes in `objectInfo150.txt`; the id 0 says
    nothing. `voc`: `JPEGImages`, `SegmentationClass`, `ImageSets/Segmentation/SPLIT.txt`, and, where they are there,
    `SegmentationObject` and `Annotations`; the id 0 is the background, a class; `root` may be the folder around
    `VOCdevkit`. `folder`: `images/train/*` and `masks/train/*`; the id 0 is a class.

    Args:
        split: `train`, `val` or `test`; folders may have a usual synonym such as `validation`. With `voc` any list.
        classes: their names in the order of their indices, or how many there are. None takes them from the table of
            `ade20k`, from `classes.txt` under the root, a name a line, or with `voc` those of Pascal VOC.
        images, masks: other folders than the layout's, below the root or anywhere.
        zero_is_class: whether the id 0 is a class; None: as in the layout.
    """
    if layout not in get_args(MaskLayout):
        raise InputError(f"layout must be one of {', '.join(get_args(MaskLayout))}, got {layout!r}.")
    folder, usual = Path(root), CONVENTIONS[layout]
    if not folder.is_dir():
        raise FileNotFoundError(f"There is no folder {folder}: root must hold the data.")
    if layout == "voc":
        folder = next((f for f in (folder, *sorted(folder.glob("VOCdevkit/VOC2*"))) if _is_voc(f)), folder)
    image_folder, mask_folder = folder / (images or usual.images), folder / (masks or usual.masks)
    for kind, place in (("images", image_folder), ("masks", mask_folder)):
        if not place.is_dir():
            there = ", ".join(sorted(entry.name for entry in folder.iterdir())[:8]) or "nothing"
            raise FileNotFoundError(f"The {kind} of the layout {layout} are in {place}, but {folder} has {there}.")
    if layout == "voc":
        wanted: list[str] | None = _listed(folder, split)
    else:
        wanted = None
        image_folder, mask_folder = split_path(image_folder, split), split_path(mask_folder, split)
    found, with_masks = _by_name(image_folder), _by_name(mask_folder)
    names = tuple(sorted(found) if wanted is None else wanted)
    _compare(names, found, with_masks, image_folder, mask_folder, listed=wanted is not None)
    objects, boxes = folder / "SegmentationObject", folder / "Annotations"
    return MaskFiles(
        names=names,
        images=tuple(found[name] for name in names),
        masks=tuple(with_masks[name] for name in names),
        class_names=_class_names(folder, layout, classes),
        zero_is_class=usual.zero_is_class if zero_is_class is None else zero_is_class,
        instance_files=_by_name(objects) if layout == "voc" and objects.is_dir() else {},
        box_files={file.stem: file for file in boxes.glob("*.xml")} if layout == "voc" else {},
    )


def _is_voc(folder: Path) -> bool:
    return (folder / "ImageSets" / "Segmentation").is_dir()


def _listed(folder: Path, split: str) -> list[str]:
    """The names in the list of a split."""
    lists = folder / "ImageSets" / "Segmentation"
    file = lists / f"{split}.txt"
    if not file.is_file():
        there = ", ".join(sorted(path.stem for path in lists.glob("*.txt"))) or "none"
        raise FileNotFoundError(f"There is no list {file}; {lists} has {there}.")
    names = file.read_text().split()
    if len(set(names)) < len(names):
        twice = next(name for k, name in enumerate(names) if name in names[:k])
        raise InputError(f"{file} names {twice} twice.")
    return names


def _by_name(folder: Path) -> dict[str, Path]:
    """{path below the folder without its suffix: file} of what is named like an image."""
    known = Image.registered_extensions()
    found: dict[str, Path] = {}
    for path, _, files in os.walk(folder):
        for file in sorted(files):
            stem, suffix = os.path.splitext(file)
            if suffix.lower() not in known or file.startswith("."):
                continue
            name = Path(path, stem).relative_to(folder).as_posix()
            if name in found:
                raise InputError(f"{folder} has two files named {name}: {found[name].name} and {file}.")
            found[name] = Path(path, file)
    return found


def _compare(
    names: Sequence[str],
    images: dict[str, Path],
    masks: dict[str, Path],
    image_folder: Path,
    mask_folder: Path,
    *,
    listed: bool,
) -> None:
    """Raise FileNotFoundError if an image or a mask has no partner."""
    if not names:
        raise FileNotFoundError(f"There are no images in {image_folder}." if not listed else "The list is empty.")
    complaints = [
        ("image", "mask", [name for name in names if name not in masks], mask_folder),
        ("mask", "image", [name for name in (names if listed else sorted(masks)) if name not in images], image_folder),
    ]
    for kind, partner, lonely, folder in complaints:
        if lonely:
            more = (
                f", {lonely[1]} and {len(lonely) - 2} more"
                if len(lonely) > 2
                else "".join(f", {n}" for n in lonely[1:])
            )
            raise FileNotFoundError(f"The {kind} {lonely[0]}{more} has no {partner} of that name in {folder}.")


def _class_names(folder: Path, layout: MaskLayout, classes: int | Sequence[str] | None) -> tuple[str, ...]:
    tables, lines = sorted(folder.glob("objectInfo*.txt")), folder / "classes.txt"
    if isinstance(classes, int):
        names = [f"class {k}" for k in range(classes)]
    elif classes is not None:
        names = list(classes)
    elif layout == "ade20k" and tables:
        names = _names_in_table(tables[0])
    elif lines.is_file():
        names = [line.strip() for line in lines.read_text().splitlines() if line.strip()]
    elif layout == "voc":
        names = list(VOC_CLASSES)
    else:
        raise InputError(
            f"Nothing says which classes {folder} has: give classes, their names or their number, or write the file "
            f"{lines}, a name a line in the order of their ids."
        )
    if not 1 <= len(names) < IGNORE or len(set(names)) < len(names):
        raise InputError(f"There must be 1 to {IGNORE - 1} classes of different names, got {len(names)}: {names[:9]}.")
    return tuple(names)


def _names_in_table(path: Path) -> list[str]:
    """The first name of each class in ADE20K's table: lines from an id to a name, the fields separated by tabs."""
    rows = [line.split("\t") for line in path.read_text().splitlines()[1:] if line.strip()]
    if [row[0].strip() for row in rows] != [str(k) for k in range(1, len(rows) + 1)] or any(
        len(row) < 2 for row in rows
    ):
        raise InputError(
            f"{path} is no table of classes: below a line of headings each line must begin with an id, which counts "
            "from 1 without a gap, and end with the name, with tabs between."
        )
    names = [row[-1].strip() for row in rows]
    short = [name.split(",")[0] for name in names]
    return short if len(set(short)) == len(short) else names
