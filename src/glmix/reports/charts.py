"""Charts of a report as SVG or PNG in HTML. Colours come from the style sheet of the page, so that it can be dark."""

import base64
from collections.abc import Sequence
from io import BytesIO
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ..pages import escaped

__all__ = ["bars", "confusion_matrix", "curves", "legend", "reliability_diagram"]

CELLS = 40  # maximum number of classes of a matrix drawn as a chart with numbers; larger ones are images
BLOCKS = 250  # maximum side in pixels of the image of a large matrix; each pixel is a block of cells
CELL = 46  # side of a cell in pixels
SIDE = 260  # side of the plots in pixels
LABEL = 18  # maximum number of letters of a class name next to a matrix


def confusion_matrix(counts: NDArray[Any], class_names: Sequence[str], *, normalised: bool) -> str:
    """Return a confusion matrix (K, K) with ground truth in rows: a chart, or an image if there are many classes.

    Args:
        counts: the counts.
        class_names: the names of the classes.
        normalised: show shares of each row instead of counts. The shade is the share of the row in both cases.
    """
    shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    if len(class_names) > CELLS:
        return _matrix_image(shares)
    left = 12 + 7 * max(min(len(name), LABEL) for name in class_names)
    size = CELL * len(class_names)
    parts = []
    for row, name in enumerate(class_names):
        y = left + CELL * row
        label = escaped(_short(name))
        parts.append(f'<text x="{left - 6}" y="{y + CELL / 2 + 4}" text-anchor="end">{label}</text>')
        x = left + CELL * row + CELL / 2
        parts.append(f'<text transform="translate({x + 4} {left - 6}) rotate(-60)">{label}</text>')
        for column, other in enumerate(class_names):
            count, share = int(counts[row, column]), float(shares[row, column])
            kind = "right" if row == column else "wrong"
            text = (f"{100 * share:.0f}" if normalised else _brief(count)) if count else ""
            strong = " strong" if share > 0.55 else ""
            title = f"{name} predicted as {other}: {count:,} ({100 * share:.1f} %)"
            x = left + CELL * column
            parts.append(
                f'<g><title>{escaped(title)}</title><rect class="{kind}" x="{x + 1}" y="{y + 1}" '
                f'width="{CELL - 2}" height="{CELL - 2}" rx="3" fill-opacity="{max(share, 0.04):.3f}"/>'
                f'<text class="cell{strong}" x="{x + CELL / 2}" y="{y + CELL / 2 + 4}" '
                f'text-anchor="middle">{text}</text>'
                "</g>"
            )
    # the rotated names of the last columns need room on the right
    width, height = left + size + left // 2, left + size + 4
    return (
        f'<div class="scroll" tabindex="0"><svg class="matrix" width="{width}" height="{height}" '
        f'viewBox="0 0 {width} {height}" role="img" '
        f'aria-label="Confusion matrix: ground truth in rows, predictions in columns">{"".join(parts)}</svg></div>'
    )


def _matrix_image(shares: NDArray[np.float64]) -> str:
    """Return the matrix as an image with the highest share of each block of cells; small shares are emphasised."""
    block = -(-len(shares) // BLOCKS)
    side = -(-len(shares) // block)
    padded = np.pad(shares, (0, side * block - len(shares)))
    highest = padded.reshape(side, block, side, block).max((1, 3))
    alpha = (255 * highest**0.4).round().astype(np.uint8)
    colour = np.where(np.eye(side, dtype=bool)[..., None], (47, 125, 90), (196, 72, 46)).astype(np.uint8)
    picture = Image.fromarray(np.concatenate([colour, alpha[..., None]], axis=2), "RGBA")
    times = max(1, -(-600 // side))
    picture = picture.resize((times * side, times * side), Image.Resampling.NEAREST)
    file = BytesIO()
    picture.save(file, "PNG", optimize=True)
    uri = f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode('ascii')}"
    return f'<img class="matrix" src="{uri}" alt="Confusion matrix: ground truth in rows, predictions in columns">'


def reliability_diagram(series: Sequence[tuple[str, dict[str, Any]]]) -> str:
    """Return a reliability diagram of one or two series over a histogram of the confidences of the first.

    Args:
        series: the title of each series and its reliability, as in `report.json`. The first is drawn as bars, the
            second as a line.
    """
    bins = series[0][1]["bins"]
    width = SIDE / len(bins)
    parts = [_axes("confidence", "accuracy"), f'<line class="ideal" x1="0" y1="{SIDE}" x2="{SIDE}" y2="0"/>']
    for k, item in enumerate(bins):
        if item["count"]:
            height = SIDE * item["accuracy"]
            title = (
                f"{series[0][0]}, confidence {item['from']:.2f} to {item['to']:.2f}: accuracy {item['accuracy']:.3f}, "
                f"mean confidence {item['confidence']:.3f}, {item['count']:,} predictions"
            )
            parts.append(
                f'<rect class="first" x="{k * width + 1:.1f}" y="{SIDE - height:.1f}" width="{width - 2:.1f}" '
                f'height="{height:.1f}"><title>{title}</title></rect>'
            )
    for title, values in series[1:]:
        points = [
            (SIDE * item["confidence"], SIDE * (1 - item["accuracy"])) for item in values["bins"] if item["count"]
        ]
        parts.append(f'<polyline class="second" points="{" ".join(f"{x:.1f},{y:.1f}" for x, y in points)}"/>')
        parts += [
            f'<circle class="second" cx="{x:.1f}" cy="{y:.1f}" r="3"><title>{title}</title></circle>' for x, y in points
        ]
    highest = max(item["count"] for item in bins) or 1
    below = SIDE + 48
    for k, item in enumerate(bins):
        height = 50 * item["count"] / highest
        parts.append(
            f'<rect class="quiet" x="{k * width + 1:.1f}" y="{below + 50 - height:.1f}" width="{width - 2:.1f}" '
            f'height="{height:.1f}"><title>{item["count"]:,} predictions</title></rect>'
        )
    parts.append(f'<text x="{SIDE / 2}" y="{below + 66}" text-anchor="middle">predictions by confidence</text>')
    legend = "".join(
        f'<span class="{kind}">{escaped(title)}: ECE {100 * values["ece"]:.1f} %</span>'
        for kind, (title, values) in zip(("first", "second"), series, strict=False)
    )
    box = f"-44 -8 {SIDE + 56} {SIDE + 136}"
    return f'{_plot(box, parts, "Reliability diagram")}<p class="legend">{legend}</p>'


def curves(items: Sequence[dict[str, Any]]) -> str:
    """Return small precision-recall curves with the chosen operating point of each class."""
    plots = []
    for item in items:
        points = " ".join(f"{SIDE * r:.1f},{SIDE * (1 - p):.1f}" for r, p in item["points"])
        parts = [_axes("recall", "precision"), f'<polyline class="line" points="{points}"/>']
        if item["recall"] is not None and item["precision"] is not None:
            x, y = SIDE * item["recall"], SIDE * (1 - item["precision"])
            parts.append(f'<circle class="second" cx="{x:.1f}" cy="{y:.1f}" r="6"/>')
        threshold = "" if item["threshold"] is None else f", threshold {item['threshold']:.2f}"
        title = escaped(f"{_short(item['class'], 28)}: AP {100 * item['ap']:.1f} %{threshold}")
        box = f"-44 -8 {SIDE + 56} {SIDE + 48}"
        plots.append(f"<figure>{_plot(box, parts, 'Precision-recall curve')}<figcaption>{title}</figcaption></figure>")
    return f'<div class="plots">{"".join(plots)}</div>'


def bars(items: Sequence[tuple[str, float]]) -> str:
    """Return horizontal bars of names and values from 0 to 1."""
    rows = "".join(
        f'<tr><th scope="row">{escaped(_short(name, 40))}</th><td><svg class="bar" aria-hidden="true">'
        f'<rect width="{100 * value:.1f}%" height="100%"/></svg></td><td class="percent">{100 * value:.1f} %</td></tr>'
        for name, value in items
    )
    return f'<table class="bars"><tbody>{rows}</tbody></table>'


def legend(items: Sequence[tuple[str, Sequence[int]]]) -> str:
    """Return names of classes beside their RGB colours."""
    rows = "".join(
        f'<span><svg aria-hidden="true"><rect width="100%" height="100%" fill="rgb({",".join(map(str, colour))})"/>'
        f"</svg>{escaped(name)}</span>"
        for name, colour in items
    )
    return f'<p class="colours">{rows}</p>'


def _axes(x: str, y: str) -> str:
    """Return the frame, the grid and the titles of a plot from 0 to 1 in both directions."""
    grid = "".join(
        f'<path class="grid" d="M{SIDE * t} 0V{SIDE}M0 {SIDE * t}H{SIDE}"/>'
        f'<text x="{SIDE * t}" y="{SIDE + 14}" text-anchor="middle">{t:g}</text>'
        f'<text x="-6" y="{SIDE * (1 - t) + 4}" text-anchor="end">{t:g}</text>'
        for t in (0, 0.25, 0.5, 0.75, 1)
    )
    titles = (
        f'<text x="{SIDE / 2}" y="{SIDE + 32}" text-anchor="middle">{x}</text>'
        f'<text transform="translate(-34 {SIDE / 2}) rotate(-90)" text-anchor="middle">{y}</text>'
    )
    return grid + titles


def _plot(box: str, parts: Sequence[str], label: str) -> str:
    return f'<svg class="plot" viewBox="{box}" role="img" aria-label="{label}">{"".join(parts)}</svg>'


def _brief(count: int) -> str:
    """Return a count in at most five letters."""
    for limit, ending in ((1e9, "G"), (1e6, "M"), (1e4, "k")):
        if count >= limit:
            return f"{count / (1e3 if ending == 'k' else limit):.3g}{ending}"
    return str(count)


def _short(name: str, longest: int = LABEL) -> str:
    return name if len(name) <= longest else f"{name[: longest - 1]}…"
