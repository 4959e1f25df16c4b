"""Report of discovered objects: a table, JSON, and a figure of examples."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ...errors import needs_extra
from ..figure.panels import COLOURS, hex_to_rgb
from .discovery import CONTROLS, METHODS, METRICS, Discovered
from .margins import Margin, margins, mean_of
from .report import SIGNS, as_numbers, markdown_table

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["discovery_json", "discovery_sheet", "discovery_table", "grid_warning"]

Floats = NDArray[np.float64]
ROWS = ("cut", "k-means", "untrained k-means", "features k-means")  # rows of the figure below the ground truth


def _values(found: Sequence[Discovered], method: str, metric: str) -> Floats:
    """Return the values of a metric per image."""
    return np.array([one.rows[method][metric] for one in found])


def _margins(found: Sequence[Discovered], method: str, metric: str) -> list[Margin]:
    """Return the differences between a method and every control."""
    return margins(_values(found, method, metric), {name: _values(found, name, metric) for name in CONTROLS})


def _defined_metrics(found: Sequence[Discovered]) -> list[str]:
    """Return the metrics that are defined for some image."""
    return [metric for metric in METRICS if not np.isnan(mean_of(_values(found, "cut", metric)))]


def discovery_table(found: Sequence[Discovered]) -> str:
    """Format a Markdown table of means in percent, with signs that compare each method with each control."""
    shown = _defined_metrics(found)
    signs = {
        (method, margin.control, metric): SIGNS[margin.verdict]
        for method in METHODS
        for metric in shown
        for margin in _margins(found, method, metric)
    }
    rows = []
    for name in (*METHODS, *CONTROLS):
        cells = [f"{100 * mean_of(_values(found, name, metric)):.1f}" for metric in shown]
        standing = ["".join(signs.get((method, name, metric), " ") for metric in shown) for method in METHODS]
        rows.append([name, *cells, *(f"`{text}`" if text.strip() else "" for text in standing)])
    head = ["", *(METRICS[metric] for metric in shown), *(f"{method}, compared" for method in METHODS)]
    return markdown_table(head, rows, left=1)


def grid_warning(found: Sequence[Discovered]) -> str | None:
    """Return a warning about the adjusted Rand index of the foreground, or None if this score is not defined."""
    if "foreground_ari" not in _defined_metrics(found):
        return None
    grid = mean_of(_values(found, "2 x 2 grid", "foreground_ari"))
    others = [name for name in (*METHODS, *CONTROLS) if name != "2 x 2 grid"]
    better = [name for name in others if mean_of(_values(found, name, "foreground_ari")) > grid]
    comparison = f"only {', '.join(better)} score higher" if better else "nothing scores higher"
    return (
        f"ARI-FG is not reliable: a constant grid of 2 x 2 cells, which ignores the image, has {100 * grid:.1f}, and "
        f"{comparison}. It covers the pixels of objects only, so cells may extend into the background at no cost."
    )


def discovery_json(found: Sequence[Discovered], settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return settings, scores and differences as a dictionary that can be written as JSON."""
    return {
        "settings": dict(settings),
        "methods": {
            name: {
                "what": {**METHODS, **CONTROLS}[name],
                "control": name in CONTROLS,
                "scores": {metric: as_numbers(_values(found, name, metric)) for metric in METRICS},
            }
            for name in (*METHODS, *CONTROLS)
        },
        "margins": {
            method: {
                metric: [{**vars(margin), "verdict": margin.verdict} for margin in _margins(found, method, metric)]
                for metric in _defined_metrics(found)
            }
            for method in METHODS
        },
        "warning": grid_warning(found),
    }


def discovery_sheet(found: Sequence[Discovered], title: str, columns: int = 8) -> "Figure":
    """Draw the first images, one per column: the ground truth, then the objects that some methods found, in colours."""
    with needs_extra("slots", "figures of objects"):
        from matplotlib.figure import Figure
    examples = found[:columns]
    names = ["image", "truth", *ROWS]
    cell, gap, left, top = 1.0, 0.06, 1.35, 0.45
    shapes = [one.truth.image.shape for one in examples]
    tallest = min(1.5, max(shape[0] / shape[1] for shape in shapes))
    width = left + len(examples) * (cell + gap)
    height = top + len(names) * (cell * tallest + gap)
    figure = Figure(figsize=(width, height), facecolor="white")
    figure.text(0.1 / width, 1 - 0.12 / height, title, va="top", fontsize=10, weight="bold", color="#1c1e21")
    for row, name in enumerate(names):
        y = 1 - (top + row * (cell * tallest + gap) + cell * tallest) / height
        middle = y + cell * tallest / 2 / height
        figure.text((left - 0.1) / width, middle, name, ha="right", va="center", fontsize=8.5, color="#3c4046")
        for column, one in enumerate(examples):
            box = ((left + column * (cell + gap)) / width, y, cell / width, cell * tallest / height)
            axes = figure.add_axes(box)
            axes.set_axis_off()
            axes.imshow(_picture(one, name), interpolation="nearest")
    return figure


def _picture(one: Discovered, name: str) -> Floats:
    """Return an image (H, W, 3) with its objects in colours and a pale background."""
    image = one.truth.image.astype(np.float64) / 255
    if name == "image":
        return image
    groups = one.groups.get(name, one.truth.objects)
    if groups is None:
        groups = one.truth.foreground if one.truth.foreground is not None else np.zeros(image.shape[:2], np.int64)
    grey = image.mean(2, keepdims=True)
    painted = np.where(groups[..., None] > 0, image, 0.8 + 0.16 * grey)
    for number in np.unique(groups[groups > 0]):
        inside = groups == number
        colour = hex_to_rgb(COLOURS[(int(number) - 1) % len(COLOURS)])
        painted[inside] = 0.68 * colour + 0.32 * grey[inside]
    painted[groups < 0] = 1.0
    return painted
