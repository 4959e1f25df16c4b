"""Evaluation of detections on image files with a COCO JSON: ids by file name, COCO results, average precision."""

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any

import torch
from PIL import Image

from ...data.detection.files import CocoFiles, read_annotations, read_stored
from ...data.detection.rle import to_rle
from ...errors import InputError
from .metrics import CocoScores
from .predictor import Detections

__all__ = ["Annotated", "AnnotatedScores"]


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

    def image(self, file: Path, index: int, max_pixels: int | None = None) -> Image.Image:
        """Load an image in the orientation of its annotations, as in training; see `read_stored`.

        Args:
            file: the image file.
            index: the index of the image in the JSON.
            max_pixels: the maximum number of pixels; None accepts any number.

        Raises:
            InputError: the image has more than `max_pixels` pixels, or cannot be read.
        """
        entry, _ = self.files.records[index]
        if max_pixels is not None and entry["width"] * entry["height"] > max_pixels:
            raise InputError(
                f"{file} has {entry['width']} x {entry['height']} pixels, and at most {max_pixels:,} are accepted."
            )
        return read_stored(file, (entry["width"], entry["height"]), self.files.path)

    def image_id(self, index: int) -> int:
        """Return the COCO image id of the image at an index in the JSON."""
        image_id: int = self.files.records[index][0]["id"]
        return image_id


class AnnotatedScores:
    """Collector of detections on annotated images, for COCO results and average precision.

    Args:
        annotated: the annotated images.
        masks: whether the detector predicts masks. They are evaluated if the annotations have masks as well.
    """

    def __init__(self, annotated: Annotated, *, masks: bool) -> None:
        self.annotated = annotated
        self.masks = masks and annotated.masks
        self.results: list[dict[str, Any]] = []
        self.images = 0
        self._scores = CocoScores(annotated.files.class_names, masks=self.masks)

    def add(self, index: int, detections: Detections) -> None:
        """Add all detections on the image at an index in the JSON."""
        annotations = self.annotated.files.target(index)
        target = {name: annotations[name] for name in ("image_id", "size", "boxes", "labels", "area", "iscrowd")}
        prediction = {
            "boxes": torch.from_numpy(detections.boxes),
            "labels": torch.from_numpy(detections.labels),
            "scores": torch.from_numpy(detections.scores),
        }
        if self.masks:
            size = annotations["size"]
            target["rles"] = [to_rle(segmentation, *size) for segmentation in annotations["segmentations"]]
            masks = [torch.from_numpy(mask) for mask in detections.whole_masks()]
            prediction["masks"] = torch.stack(masks).unsqueeze(1) if masks else torch.zeros(0, 1, *size)
        with torch.inference_mode():
            self._scores.update([prediction], [target])
        self.results += detections.coco(target["image_id"], self.annotated.category_ids)
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
