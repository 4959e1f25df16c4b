"""Evaluation of detections on image files with a COCO JSON: ids by file name, average precision."""

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from torch import Tensor
from torchvision.transforms.v2.functional import pil_to_tensor

from ...data.detection.files import CocoFiles, read_annotations, read_stored
from ...data.detection.rle import to_rle
from ...errors import InputError
from .detections import Detections
from .metrics import CocoScores

__all__ = ["Annotated", "AnnotatedScores", "AnnotatedSource", "read_annotated"]


@dataclass(frozen=True, eq=False)
class Annotated:
    """The images of a COCO JSON, matched to image files by name.

    Args:
        files: the annotations, with categories in the order of the detector's labels.
        masks: whether the annotations have masks.
    """

    files: CocoFiles
    masks: bool

    @classmethod
    def read(cls, path: str | os.PathLike[str], class_names: Sequence[str]) -> "Annotated":
        """Read a COCO JSON and order its categories like the class names of a detector.

        Raises:
            InputError: the JSON is invalid, or its category names are not the class names of the detector.
        """
        files, masks = read_annotations(path)
        ids = {name: category for category, name in files.categories.items()}
        if len(ids) < len(files.categories) or set(ids) != set(class_names):
            raise InputError(
                f"The category names of {path} must be unique and equal the class names of the detector: the file has "
                f"{_join_names(files.class_names)}, and the detector has {_join_names(class_names)}."
            )
        return cls(replace(files, categories={ids[name]: name for name in class_names}), masks)

    @property
    def category_ids(self) -> list[int]:
        """The category ids of the labels 1, 2, ..."""
        return self.files.category_ids

    def match(self, files: Sequence[Path], folders: Sequence[Path]) -> tuple[dict[Path, int], list[Path]]:
        """Match image files to images of the JSON: by path relative to a folder, otherwise by base name.

        Args:
            files: the image files.
            folders: the folders from which files were collected.

        Returns:
            {file: index of its image in the JSON}, and the files that are not in the JSON.

        Raises:
            InputError: a file matches several images of the JSON, or two files match the same image.
        """
        by_path: dict[PurePosixPath, list[int]] = {}
        by_name: dict[str, list[int]] = {}
        for index, (entry, _) in enumerate(self.files.records):
            name = PurePosixPath(entry["file_name"])
            by_path.setdefault(name, []).append(index)
            by_name.setdefault(name.name, []).append(index)
        matched: dict[Path, int] = {}
        missing: list[Path] = []
        for file in files:
            relative = [file.relative_to(folder).as_posix() for folder in folders if file.is_relative_to(folder)]
            with_path = next((by_path[path] for path in map(PurePosixPath, relative) if path in by_path), None)
            indices = by_name.get(file.name, []) if with_path is None else with_path
            if len(indices) > 1:
                names = [self.files.records[index][0]["file_name"] for index in indices]
                raise InputError(
                    f"{file} matches {len(indices)} images of {self.files.path}, {_join_names(names)}: pass the folder "
                    "that the file names in the JSON are relative to."
                )
            if indices:
                matched[file] = indices[0]
            else:
                missing.append(file)
        file_of_image: dict[int, Path] = {}
        for file, index in matched.items():
            if index in file_of_image:
                name = self.files.records[index][0]["file_name"]
                raise InputError(f"{file_of_image[index]} and {file} both match the image {name} of {self.files.path}.")
            file_of_image[index] = file
        return matched, missing

    def image_id(self, index: int) -> int:
        """Return the COCO image id of the image at an index in the JSON."""
        image_id: int = self.files.records[index][0]["id"]
        return image_id


class AnnotatedSource:
    """The images of a source with the sizes that a COCO JSON states, for `glmix.inference`.

    Use `read_annotated` to read what `read` returns.

    Args:
        source: images; see `glmix.inference.Source`.
        annotated: the annotated images.
        indices: per position in `source`, the index of the image in the JSON; -1 for images that are not in it.
        max_pixels: maximum number of pixels of an image.
    """

    def __init__(self, source: Any, annotated: Annotated, indices: Sequence[int], max_pixels: int) -> None:
        self.problems: list[dict[str, str]] = source.problems
        self._source, self._json, self._max_pixels = source, annotated.files.path, max_pixels
        records = [annotated.files.records[index][0] if index >= 0 else None for index in indices]
        self._sizes = np.array([(one["width"], one["height"]) if one else (0, 0) for one in records]).reshape(-1, 2)

    @property
    def fingerprint(self) -> str:
        """A hash of the sizes in the JSON."""
        return hashlib.blake2b(self._sizes.tobytes(), digest_size=16).hexdigest()

    def __len__(self) -> int:
        return len(self._source)

    def key(self, index: int) -> str:
        name: str = self._source.key(index)
        return name

    def read(self, index: int) -> Any:
        """Return the file or its content, its name, the (width, height) in the JSON, and the JSON.

        Raises:
            InputError: the image is not in the JSON, or too large.
        """
        width, height = self._sizes[index].tolist()
        if width == 0:
            raise InputError(f"not among the images of {self._json}")
        if width * height > self._max_pixels:
            raise InputError(
                f"{self.key(index)} has {width} x {height} pixels, and at most {self._max_pixels:,} are accepted."
            )
        return self._source.read(index), self.key(index), (width, height), self._json


def read_annotated(source: Any) -> tuple[Tensor, tuple[int, int]]:
    """Return an image of an `AnnotatedSource` (3, H, W) in the orientation of its annotations, as in training.

    Raises:
        InputError: the image cannot be read, or has another size than in the JSON.
    """
    content, name, size, annotations = source
    if isinstance(content, Path) and content.exists() and not content.is_file():
        raise InputError(f"The image {name} cannot be read: it is not a regular file.")
    image = read_stored(content, size, annotations, name=name)
    return pil_to_tensor(image), image.size


class AnnotatedScores:
    """Collector of detections on annotated images, for average precision.

    Args:
        annotated: the annotated images.
        masks: whether the detector predicts masks. They are evaluated if the annotations have masks as well.
    """

    def __init__(self, annotated: Annotated, *, masks: bool) -> None:
        self.annotated = annotated
        self.masks = masks and annotated.masks
        self.images = 0
        self._scores = CocoScores(annotated.files.class_names, masks=self.masks)

    def add(self, index: int, detections: Detections) -> None:
        """Add all detections on the image at an index in the JSON."""
        annotations = self.annotated.files.target(index)
        target = {name: annotations[name] for name in ("image_id", "size", "boxes", "labels", "area", "iscrowd")}
        if self.masks:
            target["rles"] = [to_rle(segmentation, *target["size"]) for segmentation in annotations["segmentations"]]
        self._scores.add(detections.coco(int(target["image_id"])), target)
        self.images += 1

    def summary(self) -> dict[str, Any]:
        """Return the scores, from 0 to 1, and the number of evaluated and of annotated images."""
        return {
            "file": str(self.annotated.files.path),
            "images": self.images,
            "images_in_file": len(self.annotated.files),
            "scores": self._scores.compute(),
        }


def _join_names(names: Sequence[str], limit: int = 10) -> str:
    return ", ".join(names[:limit]) + (f", ... ({len(names)})" if len(names) > limit else "")
