"""A matplotlib figure whose elements are placed in inches from the upper left corner, without pyplot's global state."""

import io
from collections.abc import Mapping
from pathlib import Path

from numpy.typing import ArrayLike

from ...errors import InputError, needs_extra
from ...files import write_atomically

with needs_extra("slots", "figures of slots"):
    import matplotlib
    from matplotlib.axes import Axes
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Colormap, Normalize
    from matplotlib.figure import Figure

__all__ = ["BAR", "QUIET", "TEXT", "Figure", "Page", "badge", "save_figure"]

TEXT, QUIET, LINE = "#1c1e21", "#6b7078", "#d4d4d0"
BAR = 0.09  # width of a colour bar
BADGE = {"boxstyle": "square,pad=0.2", "ec": "none"}


class Page:
    """A figure with absolute placement. (x, y) is the upper left corner of an element in inches, y counted downwards.

    Args:
        width, height: size of the figure in inches.
    """

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
        """Draw an image or a map that fills a rectangle.

        Args:
            x, y: upper left corner.
            size: width and height.
            image: an image, or a map to draw with `cmap` and `norm`.
            frame: colour of the frame, thick unless it is the default; None for no frame.
            smooth: interpolate between pixels.
        """
        axes = self._axes(x, y, *size)
        axes.imshow(image, cmap, norm, interpolation="antialiased" if smooth else "nearest", aspect="auto")
        axes.set(xticks=[], yticks=[])
        axes.spines[:].set(visible=frame is not None, color=frame, linewidth=0.6 if frame == LINE else 2.2)
        return axes

    def text(self, x: float, y: float, text: str, size: float = 8, colour: str = TEXT, weight: str = "normal") -> None:
        """Draw lines of text whose top is at y. Dollar signs are literal, because file names may contain them."""
        where = (x / self.width, 1 - y / self.height)
        self.figure.text(
            *where, text, size=size, color=colour, weight=weight, va="top", linespacing=1.45, parse_math=False
        )

    def bar(
        self, x: float, y: float, height: float, cmap: Colormap, norm: Normalize, ticks: Mapping[float, str]
    ) -> None:
        """Draw a colour bar with labels at `ticks`, {value: label}."""
        bar = self.figure.colorbar(ScalarMappable(norm, cmap), cax=self._axes(x, y, BAR, height))
        bar.ax.spines[:].set_visible(False)
        bar.set_ticks(list(ticks), labels=list(ticks.values()))
        bar.ax.minorticks_off()
        bar.ax.tick_params(labelsize=6.5, length=0, labelcolor=QUIET, pad=3)


def badge(axes: Axes, x: float, y: float, letter: str, colour: str, size: float = 7) -> None:
    """Draw a white letter on a coloured square just inside a corner (x, y), in data coordinates of the panel."""
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
    """Write a PNG or SVG file atomically. The same figure gives the same bytes.

    Raises:
        InputError: the suffix is neither .png nor .svg.
    """
    kind = path.suffix.lower().lstrip(".")
    if kind not in ("png", "svg"):
        raise InputError(f"Figures are written as .png or .svg, got {path.name!r}.")
    metadata = {"Software": None} if kind == "png" else {"Date": None, "Creator": None}
    contents = io.BytesIO()
    with matplotlib.rc_context({"svg.hashsalt": "glmix", "svg.fonttype": "path"}):
        figure.savefig(contents, format=kind, dpi=dpi, metadata=metadata)
    write_atomically(path, contents.getvalue())
