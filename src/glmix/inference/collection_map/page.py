"""HTML page of a map: points, labels, neighbours and thumbnails in one file, with a strict content security policy."""

import json
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from string import Template
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ...errors import InputError
from ...files import write_atomically
from ...pages import bundled, embedded, escaped, page_html, read_sources
from ..search import nearest
from ..thumbnails import Thumbnails, jpeg_uri
from .projection import Method, project

__all__ = ["MapSummary", "write_map"]

SIZES = (160, 96, 64, 48, 32)  # longer sides of thumbnails in pixels
SCRIPTS = ("draw.js", "controls.js")  # in the order of their dependencies
COLUMNS = 10  # columns and rows of thumbnails in a sheet
SIMILAR = 8  # similar images shown for a selected image
SAMPLE = 50  # thumbnails encoded to estimate the total size


@dataclass(frozen=True)
class MapSummary:
    """Result of `write_map`.

    Args:
        points: number of images on the map.
        left_out: number of images that are left out because there are too many.
        thumbnails: number of images with a thumbnail.
        thumbnail_size: longer side of the thumbnails in pixels; 0 for none.
        labels: number of different labels.
        projection: description of the projection.
        bytes: size of the file.
    """

    points: int
    left_out: int
    thumbnails: int
    thumbnail_size: int
    labels: int
    projection: str
    bytes: int

    def json(self) -> str:
        return json.dumps(asdict(self))


def write_map(
    file: Path,
    keys: Sequence[str],
    vectors: NDArray[Any],
    labels: Sequence[str],
    *,
    title: str = "Map",
    method: Method = "pca",
    max_points: int = 5000,
    max_bytes: int = 15_000_000,
    seed: int = 0,
    thumbnails: Thumbnails | None = None,
    progress: bool = False,
) -> MapSummary:
    """Write a map of images.

    Args:
        file: HTML file to write.
        keys: names of the images.
        vectors: their vectors (N, D).
        labels: their labels.
        title: title of the page.
        method: see `project`.
        max_points: maximum number of images on the map; a larger collection is sampled at random.
        max_bytes: maximum total size of the thumbnails in the page, which determines their resolution.
        seed: random seed of the sample and of the projection.
        thumbnails: reader of the thumbnails; None to read the keys as paths.
        progress: show a progress bar.

    Raises:
        InputError: see `project`.
    """
    if max_points < 2:
        raise InputError(f"max_points must be at least 2, got {max_points}.")
    chosen = np.sort(np.random.default_rng(seed).permutation(len(keys))[:max_points])
    vectors = vectors[chosen]
    points, description = project(vectors, method, seed)
    names = [keys[index] for index in chosen]
    counts = Counter(labels[index] for index in chosen)
    order = sorted(counts, key=lambda label: (-counts[label], label))  # the largest first
    numbers = {label: number for number, label in enumerate(order)}
    _, similar = nearest(vectors, vectors, SIMILAR + 1)
    others = [[other for other in row if other != own][:SIMILAR] for own, row in enumerate(similar.tolist())]
    sheets, shapes, side = _sheets(names, thumbnails or Thumbnails(), max_bytes, progress)
    spread = max(float(np.ptp(points, axis=0).max()), 1e-12)
    centre = (points.max(0) + points.min(0)) / 2
    places = ((points - centre) / spread + 0.5) * 65535
    data = {
        "title": title,
        "projection": description,
        "left": len(keys) - len(names),
        "x": places[:, 0].round().astype(int).tolist(),
        "y": (65535 - places[:, 1]).round().astype(int).tolist(),  # the y axis of the screen points down
        "keys": names,
        "labels": order,
        "label": [numbers[labels[index]] for index in chosen],
        "similar": others,
        "side": side,
        "columns": COLUMNS,
        "shapes": shapes,
        "sheets": sheets,
    }
    page = _render(data, title)
    write_atomically(file, page)
    return MapSummary(
        points=len(names),
        left_out=len(keys) - len(names),
        thumbnails=sum(shape is not None for shape in shapes),
        thumbnail_size=side,
        labels=len(order),
        projection=description,
        bytes=len(page.encode()),
    )


def _sheets(
    names: Sequence[str], thumbnails: Thumbnails, max_bytes: int, progress: bool
) -> tuple[list[str], list[tuple[int, int] | None], int]:
    """Return sheets of thumbnails as data URIs, the size of each thumbnail or None, and the side of a tile."""
    from tqdm import tqdm

    places = np.random.default_rng(0).permutation(len(names))[:SAMPLE]
    sample = [thumbnail for place in places if (thumbnail := thumbnails(names[place], SIZES[0])) is not None]
    if not sample:
        return [], [None] * len(names), 0
    readable = len(sample) / len(places) * len(names)
    largest = max(max(thumbnail.size) for thumbnail in sample)
    for side in [size for number, size in enumerate(SIZES) if size == SIZES[-1] or SIZES[number + 1] < largest]:
        uri, _ = _sheet([_shrunk(thumbnail, side) for thumbnail in sample], side)
        if len(uri) / len(sample) * readable > max_bytes:
            continue
        sheets: list[str] = []
        shapes: list[tuple[int, int] | None] = []
        step = COLUMNS * COLUMNS
        with (
            ThreadPoolExecutor() as threads,
            tqdm(total=len(names), unit="image", desc="thumbnails", disable=None if progress else True) as bar,
        ):
            for start in range(0, len(names), step):
                part = names[start : start + step]
                uri, sizes = _sheet(list(threads.map(lambda name, side=side: thumbnails(name, side), part)), side)
                sheets.append(uri)
                shapes += sizes
                bar.update(len(part))
        if sum(map(len, sheets)) <= max_bytes:
            return sheets, shapes, side
    return [], [None] * len(names), 0


def _shrunk(thumbnail: Image.Image, side: int) -> Image.Image:
    copy = thumbnail.copy()
    copy.thumbnail((side, side))
    return copy


def _sheet(images: Sequence[Image.Image | None], side: int) -> tuple[str, list[tuple[int, int] | None]]:
    """Return a sheet of tiles, row by row, and the size of each image, which is in the top left corner of its tile."""
    rows = -(-len(images) // COLUMNS)
    sheet = Image.new("RGB", (min(len(images), COLUMNS) * side, rows * side), (128, 128, 128))
    for place, image in enumerate(images):
        if image is not None:
            sheet.paste(image, (place % COLUMNS * side, place // COLUMNS * side))
    return jpeg_uri(sheet, quality=75), [None if image is None else image.size for image in images]


def _render(data: dict[str, Any], title: str) -> str:
    title = title.encode("utf-8", "replace").decode("utf-8")  # file names may contain surrogates
    style, body, *scripts = read_sources(__package__, "page.css", "body.html", *SCRIPTS)
    body = Template(body).substitute(title=escaped(title), data=embedded({**data, "title": title}))
    return page_html(title, body, style=style, script=bundled(scripts))
