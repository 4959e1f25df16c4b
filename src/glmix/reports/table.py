"""Predictions of any model: a classifier's in a CSV file, a detector's in the results format of COCO."""

import csv
from pathlib import Path

import numpy as np

from ..errors import InputError, nearest
from .predictions import BoxPredictions, ClassPredictions, read_json

__all__ = ["read_detections", "read_table"]

NAME, TARGET, SEPARATOR = "name", "target", "|"
LOWEST = 1e-12  # lower probabilities are raised to this value, because 0 has no logarithm


def read_table(path: str | Path, *, multi_label: bool = False) -> ClassPredictions:
    """Read predictions from a CSV file with one row per image.

    The column `target` has the class of the image, or with `multi_label` its classes, separated by `|`. The column
    `name` is optional. Every other column is a class, named by its title, and has probabilities.

    Args:
        path: the CSV file.
        multi_label: whether an image may have several classes, so that probabilities do not sum to 1.

    Raises:
        InputError: the file is not such a table. The message names the line.
    """
    path = Path(path)
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = list(csv.reader(file))
    except FileNotFoundError as error:
        raise InputError(f"There is no file {path}.") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path} is not a CSV file in UTF-8 ({error}).") from error
    header = rows[0] if rows else []
    classes = [title for title in header if title not in (NAME, TARGET)]
    if TARGET not in header or not classes or len(set(header)) < len(header):
        raise InputError(
            f"{path} must start with a line of different titles: {TARGET}, optionally {NAME}, and one per class; got "
            f"{', '.join(header[:8]) or 'nothing'}."
        )
    place = {title: k for k, title in enumerate(header)}
    columns, numbers = [place[title] for title in classes], {title: k for k, title in enumerate(classes)}
    lines = [(number, row) for number, row in enumerate(rows[1:], start=2) if row]
    if not lines:
        raise InputError(f"{path} has no predictions below its first line.")
    scores = np.empty((len(lines), len(classes)), np.float32)
    targets = np.zeros((len(lines), len(classes)) if multi_label else len(lines), np.int64)
    for k, (number, row) in enumerate(lines):
        where = f"{path}, line {number}"
        if len(row) != len(header):
            raise InputError(f"{where} has {len(row)} columns, but the first line has {len(header)}.")
        try:
            scores[k] = [float(row[column]) for column in columns]
        except ValueError as error:
            raise InputError(f"{where} has a probability that is not a number ({error}).") from error
        if not ((scores[k] >= 0) & (scores[k] <= 1)).all():
            raise InputError(f"{where} has a probability outside 0 to 1.")
        if not multi_label and abs(float(scores[k].sum()) - 1) > 0.01:
            raise InputError(
                f"{where} has probabilities that sum to {float(scores[k].sum()):.3f}; with one class per image they "
                "sum to 1."
            )
        labels = (
            [label for label in row[place[TARGET]].split(SEPARATOR) if label] if multi_label else [row[place[TARGET]]]
        )
        for label in labels:
            if label not in numbers:
                raise InputError(f"{where} has the target {label!r}, which is not a class.{nearest(label, classes)}")
        if multi_label:
            targets[k, [numbers[label] for label in labels]] = 1
        else:
            targets[k] = numbers[labels[0]]
    names = [row[place[NAME]] if NAME in place else str(k) for k, (_, row) in enumerate(lines)]
    clipped = scores.astype(np.float64).clip(LOWEST, 1 - LOWEST if multi_label else None)
    logits = np.log(clipped) - (np.log1p(-clipped) if multi_label else 0)
    return ClassPredictions(class_names=classes, names=names, about={"data": str(path)}, targets=targets, logits=logits)


def read_detections(path: str | Path, truth: str | Path) -> BoxPredictions:
    """Read detections in the results format of COCO, and their ground truth.

    Args:
        path: JSON with a list of detections: image_id, category_id, score, bbox and optionally segmentation.
        truth: COCO JSON with images, annotations and categories.

    Raises:
        InputError: a file is not such a JSON.
    """
    path, content = Path(path), read_json(Path(truth))
    if not isinstance(content, dict) or not {"images", "annotations", "categories"} <= set(content):
        raise InputError(f"{truth} must be a COCO JSON with images, annotations and categories.")
    return BoxPredictions(
        class_names=[str(category["name"]) for category in content["categories"]],
        names=[str(image.get("file_name", image["id"])) for image in content["images"]],
        about={"data": str(truth), "weights": None},
        truth=content,
        results=read_json(path),
    )
