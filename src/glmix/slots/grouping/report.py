"""Report of grouping scores: Markdown tables, comparison with controls, JSON and a plot."""

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ...errors import needs_extra
from .margins import interval, mean_of
from .scoring import METRICS, SLOTS, BlockScores, Scores

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["as_json", "as_numbers", "markdown_table", "score_plot", "comparison_table", "summary", "table"]

STYLES: dict[str, dict[str, Any]] = {
    SLOTS: {"color": "#14507a", "lw": 2.2, "marker": "o", "ms": 5, "zorder": 5},
    "untrained": {"color": "#8db4d0", "lw": 1.3, "marker": "o", "ms": 3.5, "ls": (0, (4, 2))},
    "k-means": {"color": "#c0573e", "lw": 1.3, "marker": "s", "ms": 3.2},
    "SLIC": {"color": "#dfb95f", "lw": 1.3, "marker": "^", "ms": 3.6, "ls": (0, (4, 2))},
    "SLIC blurred": {"color": "#c68a16", "lw": 1.3, "marker": "^", "ms": 3.8},
    "grid": {"color": "#9a9a94", "lw": 1.3, "marker": "D", "ms": 2.8},
}
INK, QUIET, RULE = "#1c1e21", "#6b7078", "#e6e6e1"
SIGNS = {"above": "+", "level": "=", "below": "-"}
ARROWS = {1: "higher is better", -1: "lower is better", 0: ""}


def summary(found: Scores) -> str:
    """Format all tables with a sentence before each, and an explanation of the signs at the end."""
    parts = [
        f"Scores per block. A segment consists of the pixels with the same strongest slot:\n\n{table(found.blocks)}"
    ]
    if found.joint:
        title = "Scores of all blocks together. The segments are clusters of k-means on the assignments of all blocks:"
        parts.append(f"{title}\n\n{table(found.joint)}")
    if len(found.blocks[0].values) > 1:
        places = [comparison_table(part) for part in (found.blocks, found.joint) if part]
        parts = [text for pair in zip(parts, places, strict=True) for text in pair]
        parts.append(
            "Signs, one per block or number of segments: + better than the control by more than the 95 % confidence "
            "interval of the paired difference, = level, - worse. Bold: better than all controls.\n"
        )
    return "\n".join(parts)


def _has(blocks: Sequence[BlockScores], metric: str) -> bool:
    """Return whether a metric is defined for the slots of some block."""
    return any(not math.isnan(block.mean(SLOTS, metric)) for block in blocks)


def _number(value: float, metric: str) -> str:
    """Format the value of a metric; a dash for NaN."""
    if math.isnan(value):
        return "-"
    return f"{value:.1f}" if METRICS[metric].better == 0 else f"{value:.3f}"


def markdown_table(head: Sequence[str], rows: Sequence[Sequence[str]], left: int) -> str:
    """Format a Markdown table with padded columns.

    Args:
        head: column titles.
        rows: cells.
        left: number of columns that are left-aligned; the others are right-aligned.
    """
    widths = [max(len(cell) for cell in column) for column in zip(head, *rows, strict=True)]

    def line(cells: Sequence[str]) -> str:
        padded = [c.ljust(w) if k < left else c.rjust(w) for k, (c, w) in enumerate(zip(cells, widths, strict=True))]
        return f"| {' | '.join(padded)} |"

    rule = ["-" * w if k < left else "-" * (w - 1) + ":" for k, w in enumerate(widths)]
    return "\n".join([line(head), line(rule), *(line(row) for row in rows)]) + "\n"


def table(blocks: Sequence[BlockScores]) -> str:
    """Format means over images, one row per block and method; bold where slots are better than every control."""
    shown = [metric for metric in METRICS if _has(blocks, metric)]
    head = ["", "", *(METRICS[metric].short for metric in shown)]
    rows = []
    for block in blocks:
        for method in block.values:
            cells = []
            for metric in shown:
                text = _number(block.mean(method, metric), metric)
                cells.append(f"**{text}**" if method == SLOTS and _above_all(block, metric) else text)
            rows.append([block.label if method == SLOTS else "", method, *cells])
    return markdown_table(head, rows, left=2)


def _above_all(block: BlockScores, metric: str) -> bool:
    """Return whether the slots are better than every control."""
    found = block.margins(metric) if METRICS[metric].better else []
    return bool(found) and all(margin.verdict == "above" for margin in found)


def comparison_table(blocks: Sequence[BlockScores]) -> str:
    """Format a table that compares the slots with each control: one sign per block in the order of execution.

    `+` means better than the control by more than the 95 % confidence interval of the paired difference, `-` worse, `=`
    neither. The last column lists the blocks that are better than every control.
    """
    controls = [name for name in blocks[0].values if name != SLOTS]
    rows = []
    for metric, about in METRICS.items():
        if not about.better or not _has(blocks, metric):
            continue
        verdicts = [{margin.control: SIGNS[margin.verdict] for margin in block.margins(metric)} for block in blocks]
        signs = ["".join(found.get(control, " ") for found in verdicts) for control in controls]
        above = [str(block.place) for block in blocks if _above_all(block, metric)]
        rows.append([about.title, *(f"`{sign}`" for sign in signs), ", ".join(above) or "none"])
    return markdown_table(["", *controls, "better than all in"], rows, left=len(controls) + 2)


def as_numbers(values: NDArray[np.float64]) -> dict[str, Any]:
    """Return the mean over images, its standard error, and the number of images for which the score is defined."""
    known = int((~np.isnan(values)).sum())
    return {
        "mean": mean_of(values) if known else None,
        "standard_error": interval(values) / 1.96 if known > 1 else None,
        "images": known,
    }


def as_json(found: Scores, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return settings, scores and differences as a dictionary that can be written as JSON."""

    def fields(part: BlockScores) -> dict[str, Any]:
        return {
            "label": part.label,
            "place": part.place,
            "scores": {
                method: {metric: as_numbers(values) for metric, values in scores.items()}
                for method, scores in part.values.items()
            },
            "margins": {
                metric: [{**vars(margin), "verdict": margin.verdict} for margin in part.margins(metric)]
                for metric, about in METRICS.items()
                if about.better
            },
        }

    return {
        "settings": dict(settings),
        "blocks": [fields(block) for block in found.blocks],
        "joint": [fields(part) for part in found.joint],
    }


def score_plot(blocks: Sequence[BlockScores], title: str) -> "Figure":
    """Plot each metric over blocks, or over the number of segments for all blocks together: slots and controls."""
    with needs_extra("slots", "plots of scores"):
        from matplotlib.figure import Figure
        from matplotlib.layout_engine import ConstrainedLayoutEngine
    together = blocks[0].together
    shown = [m for m in METRICS if _has(blocks, m) and not (together and m == "segments")]
    columns = 4
    lines = -(-len(shown) // columns)
    height = 2.15 * lines + 0.75
    layout = ConstrainedLayoutEngine(w_pad=0.09, h_pad=0.07, rect=(0, 0, 1, 1 - 0.62 / height))
    figure = Figure(figsize=(2.75 * columns, height), facecolor="white", layout=layout)
    panels = list(figure.subplots(lines, columns, squeeze=False).flat)
    for axes, metric in zip(panels, shown, strict=False):
        _panel(axes, blocks, metric)
    for axes in panels[len(shown) :]:
        axes.set_axis_off()
    for axes in panels[max(0, len(shown) - columns) : len(shown)]:
        axes.set_xlabel("number of segments" if together else "block, in order of execution", fontsize=8, color=QUIET)
    handles, names = panels[0].get_legend_handles_labels()
    figure.text(0.012, 1 - 0.1 / height, title, fontsize=11, color=INK, weight="bold", va="top")
    figure.legend(
        handles,
        names,
        loc="upper left",
        bbox_to_anchor=(0.004, 1 - 0.3 / height),
        ncols=len(names),
        frameon=False,
        fontsize=9,
        labelcolor=INK,
        handlelength=2.4,
        columnspacing=2.2,
    )
    return figure


def _panel(axes: "Axes", blocks: Sequence[BlockScores], metric: str) -> None:
    """Plot one metric."""
    from matplotlib.ticker import MaxNLocator

    about = METRICS[metric]
    places = [block.place for block in blocks]
    for method in [name for name in STYLES if name in blocks[0].values]:
        means = np.array([block.mean(method, metric) for block in blocks])
        axes.plot(places, means, label=method, **STYLES[method])  # also if all values are NaN, for the legend
        if method == SLOTS:
            half = np.array([interval(block.values[SLOTS][metric]) for block in blocks])
            axes.fill_between(places, means - half, means + half, color=STYLES[SLOTS]["color"], alpha=0.13, lw=0)
    axes.set_title(about.title, loc="left", fontsize=9, color=INK, pad=14)
    axes.text(0, 1.03, ARROWS[about.better], transform=axes.transAxes, fontsize=7.5, color=QUIET, va="bottom")
    if len(places) <= 9:
        axes.set_xticks(places)
    else:
        axes.xaxis.set_major_locator(MaxNLocator(nbins=9, integer=True))
    axes.yaxis.set_major_locator(MaxNLocator(nbins=5, steps=[1, 2, 5, 10]))
    axes.tick_params(labelsize=8, colors=QUIET, length=0)
    axes.grid(axis="y", color=RULE, lw=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.spines["bottom"].set_color(RULE)
    axes.margins(x=0.06, y=0.08)
    if about.better == 0:
        axes.set_ylim(bottom=0)
