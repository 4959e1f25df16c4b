"""Detections on images that a COCO JSON annotates: its ids by file name, results for `loadRes`, average precision."""

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
    """The images of a COCO JSON, matched to files by name.

    Args:
        files: the annotations, their categories in the order of the detector's labels.
        masks: whether the annotations have masks.
    """

    files: CocoFiles
    masks: bool

    @classmethod
    def read(cls, path: str | os.PathLike[str], class_names: Sequence[str]) -> "Annotated":
        """Read a COCO JSON and order its categories as the class names of a detector.

        Raises:
            InputError: the names of the categories are not those of the detector's classes.
        """
        files, masks = read_annotations(path)
        ids = {name: category for category, name in files.categories.items()}
        if len(ids) < len(files.categories) or set(ids) != set(class_names):
            raise InputError(
                f"The categories of {path} must have the names of the detector's classes, each once: the file has "
                f"{_listed(files.class_names)}, and the detector {_listed(class_names)}."
            )
        return cls(replace(files, categories={ids[name]: name for name in class_names}), masks)

    @property
    def category_ids(self) -> list[int]:
        """Of the labels 1, 2, ..."""
        return self.files.category_ids

    def match(self, files: Sequence[Path], folders: Sequence[Path]) -> tuple[dict[Path, int], list[Path]]:
        """Find images in the JSON: by their path below the folder that was given, else by their base name.

        Args:
            files: image files.
            folders: those of them that were given as folders.

        Returns:
            {file: its place in the JSON}, and the files that are not in the JSON.

        Raises:
            InputError: a name fits several images of the JSON, or one image fits several files.
        """
        by_path: dict[PurePosixPath, list[int]] = {}
        by_name: dict[str, list[int]] = {}
        for place, (entry, _) in enumerate(self.files.records):
            name = PurePosixPath(entry["file_name"])
            by_path.setdefault(name, []).append(place)
            by_name.setdefault(name.name, []).append(place)
        matched: dict[Path, int] = {}
        missing: list[Path] = []
        for file in files:
            below = [file.relative_to(folder).as_posix() for folder in folders if file.is_relative_to(folder)]
            fitting = next((by_path[path] for path in map(PurePosixPath, below) if path in by_path), None)
            places = by_name.get(file.name, []) if fitting is None else fitting
            if len(places) > 1:
                names = [self.files.records[place][0]["file_name"] for place in places]
                raise InputError(
                    f"{file} fits {len(places)} images of {self.files.path}, {_listed(names)}: give the folder from "
                    "which the file names in the JSON start."
                )
            if places:
                matched[file] = places[0]
            else:
                missing.append(file)
        taken: dict[int, Path] = {}
        for file, place in matched.items():
            if place in taken:
                name = self.files.records[place][0]["file_name"]
                raise InputError(f"{taken[place]} and {file} both fit the image {name} of {self.files.path}.")
            taken[place] = file
        return matched, missing

    def image(self, file: Path, place: int, max_pixels: int | None = None) -> Image.Image:
        """Read the pixels to which the annotations refer, as training does: `read_stored`.

        Raises:
            InputError: the image has more than `max_pixels` pixels, or cannot be read.
        """
        entry, _ = self.files.records[place]
        if max_pixels is not None and entry["width"] * entry["height"] > max_pixels:
            raise InputError(
                f"{file} has {entry['width']} x {entry['height']} pixels, and at most {max_pixels:,} are accepted."
            )
        return read_stored(file, (entry["width"], entry["height"]), self.files.path)

    def image_id(self, place: int) -> int:
        number: int = self.files.records[place][0]["id"]
        return number


class AnnotatedScores:
    """Collects detections on annotated images, as COCO results and for average precision."""

    def __init__(self, annotated: Annotated, *, masks: bool) -> None:
        """`masks`: the detector has masks, which are scored where the annotations have them too."""
        self.annotated = annotated
        self.masks = masks and annotated.masks
        self.results: list[dict[str, Any]] = []
        self.images = 0
        self._scores = CocoScores(annotated.files.class_names, masks=self.masks)

    def add(self, place: int, found: Detections) -> None:
        """Add all detections on the image at a place in the JSON."""
        target = self.annotated.files.target(place)
        wanted = {name: target[name] for name in ("image_id", "size", "boxes", "labels", "area", "iscrowd")}
        answer = {
            "boxes": torch.from_numpy(found.boxes),
            "labels": torch.from_numpy(found.labels),
            "scores": torch.from_numpy(found.scores),
        }
        if self.masks:
            wanted["rles"] = [to_rle(segmentation, *target["size"]) for segmentation in target["segmentations"]]
            masks = [torch.from_numpy(mask) for mask in found.whole_masks()]
            answer["masks"] = torch.stack(masks).unsqueeze(1) if masks else torch.zeros(0, 1, *target["size"])
        with torch.inference_mode():
            self._scores.update([answer], [wanted])
        self.results += found.coco(target["image_id"], self.annotated.category_ids)
        self.images += 1

    def summary(self) -> dict[str, Any]:
        """The scores, from 0 to 1, and over how many of the annotated images they are."""
        return {
            "file": str(self.annotated.files.path),
            "images": self.images,
            "images_in_file": len(self.annotated.files),
            "scores": self._scores.compute(),
        }


def _listed(names: Sequence[str], most: int = 10) -> str:
    return ", ".join(names[:most]) + (f", ... ({len(names)})" if len(names) > most else "")
