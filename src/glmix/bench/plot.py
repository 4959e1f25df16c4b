"""Plots of benchmark results from `measure` or from a JSON file."""

import io
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ..errors import needs_extra

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["draw", "require_matplotlib"]

Row = dict[str, Any]

COLOURS = ("#2f6f9f", "#d98a3d", "#5b9a68", "#b5525c", "#7d6aa8", "#8a7561", "#c987a9", "#6d6d6d", "#a8a84a", "#4aa6ad")
MARKS = "osD^vP*X"


def require_matplotlib() -> None:
    """Raise MissingExtraError if matplotlib is not installed."""
    with needs_extra("slots", "plots"):
        import matplotlib  # noqa: F401


def draw(result: dict[str, Any]) -> bytes:
    """Plot a result other than a profile and return it as the bytes of a PNG file."""
    require_matplotlib()
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    rows = [row for row in result["rows"] if row["error"] is None]
    figure = Figure(layout="constrained")
    FigureCanvasAgg(figure)
    if not rows:
        figure.text(0.5, 0.5, "no measurements", ha="center")
    elif result["kind"] == "scaling":
        _scaling(figure, rows)
    else:
        _bars(figure, rows, result["kind"])
    machine = result["machine"]
    where = machine.get("gpu", f"{machine['cpu']}, {machine['threads']} thread{'s' if machine['threads'] > 1 else ''}")
    figure.supxlabel(f"{where}; torch {result['versions']['torch']}, batch {result['settings']['batch']}", size=8)
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=130)
    return stream.getvalue()


def _bars(figure: "Figure", rows: Sequence[Row], kind: str) -> None:
    """Plot images per second with quartiles and peak memory: one bar per row, one colour per form."""
    models = list(dict.fromkeys(row["model"] for row in rows))
    forms = list(dict.fromkeys(row["form"] for row in rows))
    # group the rows of each model
    places = [index + models.index(row["model"]) for index, row in enumerate(rows)]
    figure.set_size_inches(11, 1.3 + 0.26 * (places[-1] + 1))
    rate, memory = figure.subplots(1, 2, sharey=True, width_ratios=(3, 2))
    colours = [COLOURS[forms.index(row["form"]) % len(COLOURS)] for row in rows]
    values = [row["images_per_second"] for row in rows]
    spread = [[value - row["images_per_second_quartiles"][0] for value, row in zip(values, rows, strict=True)]]
    spread.append([row["images_per_second_quartiles"][1] - value for value, row in zip(values, rows, strict=True)])
    rate.barh(places, values, 0.8, color=colours, xerr=spread, error_kw={"elinewidth": 1, "ecolor": "#222222"})
    rate.set_yticks(places, [f"{row['model']}  {row['form']}" for row in rows], size=8)
    rate.invert_yaxis()
    rate.set_xlabel("images per second" + (", in training" if kind == "training" else ""))
    memory.barh(places, [row["peak_memory_mib"] or 0 for row in rows], 0.8, color=colours)
    memory.set_xlabel("peak memory in MiB" + (", in training" if kind == "training" else ""))
    for axes in (rate, memory):
        _clean(axes, "x")


def _scaling(figure: "Figure", rows: Sequence[Row]) -> None:
    """Plot time and memory per megapixel against the image size: constant if the cost is linear in the pixels."""
    pairs = list(dict.fromkeys((row["model"], row["form"]) for row in rows))
    models = list(dict.fromkeys(row["model"] for row in rows))
    forms = list(dict.fromkeys(row["form"] for row in rows))
    sizes = sorted({row["height"] for row in rows})
    figure.set_size_inches(11, 4.6)
    panels = figure.subplots(1, 2)
    for axes, key, title in zip(
        panels,
        ("seconds_per_megapixel", "peak_memory_mib_per_megapixel"),
        ("seconds per megapixel", "peak memory in MiB per megapixel"),
        strict=True,
    ):
        for pair in pairs:
            own = [row for row in rows if (row["model"], row["form"]) == pair and row[key] is not None]
            axes.plot(
                [row["height"] for row in own],
                [row[key] for row in own],
                color=COLOURS[models.index(pair[0]) % len(COLOURS)],
                marker=MARKS[forms.index(pair[1]) % len(MARKS)],
                linestyle=("-", "--", ":", "-.")[forms.index(pair[1]) % 4],
                markersize=5,
                label="  ".join(pair),
            )
        axes.set_xscale("log", base=2)
        axes.set_xticks(sizes, [str(size) for size in sizes])
        axes.minorticks_off()
        axes.set_ylim(bottom=0)
        axes.set_xlabel("image height and width in pixels")
        axes.set_ylabel(title)
        _clean(axes, "both")
    panels[0].legend(frameon=False, fontsize=8)


def _clean(axes: "Axes", grid: Any) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis=grid, color="#dddddd", linewidth=0.7)
    axes.set_axisbelow(True)
