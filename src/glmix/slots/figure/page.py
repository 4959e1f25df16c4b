"""A page on which things are put in inches from its upper left corner: matplotlib's objects, no global state."""

import io
from collections.abc import Mapping
from pathlib import Path

from numpy.typing import ArrayLike

from ...errors import InputError, MissingExtraError

try:
    import matplotlib
    from matplotlib.axes import Axes
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Colormap, Normalize
    from matplotlib.figure import Figure
except ImportError as error:
    raise MissingExtraError(
        f"Figures of slots need the extra `slots` ({error}): pip install 'glmix[slots]'."
    ) from error

from ...files import write_atomically

__all__ = ["BAR", "QUIET", "TEXT", "Page", "badge", "save_figure"]

TEXT, QUIET, LINE = "#1c1e21", "#6b7078", "#d4d4d0"
BAR = 0.09  # the width of a colour bar
BADGE = {"boxstyle": "square,pad=0.2", "ec": "none"}


class Page:
    """Its figure is what `save_figure` takes. A panel's (x, y) is its upper left corner, y counted downwards."""

    def __init__(self, width: float, height: float) -> None:
        self.width, self.height = width, height
        self.figure = Figure(figsize=(width, height), facecolor="white")

    def _axes(self, x: float, y: float, width: float, height: float) -> Axes:
        box = (x / self.width, 1 - (y + height) / self.height, width / self.width, height / self.height)
        return self.figure.add_axes(box)

    def panel(
        self,
        x: float,
        y: float,
        size: tuple[float, float],
        image: ArrayLike,
        *,
        cmap: Colormap | None = None,
        norm: Normalize | None = None,
        frame: str | None = LINE,
        smooth: bool = True,
    ) -> Axes:
        """An image or a map that fills its place, in a thin frame, in a thick one of a colour, or in none."""
        axes = self._axes(x, y, *size)
        axes.imshow(image, cmap, norm, interpolation="antialiased" if smooth else "nearest", aspect="auto")
        axes.set(xticks=[], yticks=[])
        axes.spines[:].set(visible=frame is not None, color=frame, linewidth=0.6 if frame == LINE else 2.2)
        return axes

    def text(self, x: float, y: float, text: str, size: float = 8, colour: str = TEXT, weight: str = "normal") -> None:
        """Lines whose top is at y. Names of files are no mathematics, whatever dollars they hold."""
        where = (x / self.width, 1 - y / self.height)
        self.figure.text(
            *where, text, size=size, color=colour, weight=weight, va="top", linespacing=1.45, parse_math=False
        )

    def bar(
        self, x: float, y: float, height: float, cmap: Colormap, norm: Normalize, ticks: Mapping[float, str]
    ) -> None:
        """A colour scale, with words or numbers at `ticks`."""
        bar = self.figure.colorbar(ScalarMappable(norm, cmap), cax=self._axes(x, y, BAR, height))
        bar.ax.spines[:].set_visible(False)
        bar.set_ticks(list(ticks), labels=list(ticks.values()))
        bar.ax.minorticks_off()
        bar.ax.tick_params(labelsize=6.5, length=0, labelcolor=QUIET, pad=3)


def badge(axes: Axes, x: float, y: float, letter: str, colour: str, size: float = 7) -> None:
    """A white letter on a colour, just inside the corner whose place in the panel's own units is (x, y)."""
    axes.annotate(
        letter,
        (x, y),
        (3.5, -3.5),
        textcoords="offset points",
        annotation_clip=False,
        size=size,
        weight="bold",
        color="white",
        va="top",
        ha="left",
        bbox={**BADGE, "fc": colour},
    )


def save_figure(figure: Figure, path: Path, dpi: int = 130) -> None:
    """Write PNG or SVG, as the name ends: whole or not at all, and the same bytes for the same figure."""
    kind = path.suffix.lower().lstrip(".")
    if kind not in ("png", "svg"):
        raise InputError(f"A figure is written as .png or .svg, got {path.name!r}.")
    metadata = {"Software": None} if kind == "png" else {"Date": None, "Creator": None}
    contents = io.BytesIO()
    with matplotlib.rc_context({"svg.hashsalt": "glmix", "svg.fonttype": "path"}):
        figure.savefig(contents, format=kind, dpi=dpi, metadata=metadata)
    write_atomically(path, contents.getvalue())
