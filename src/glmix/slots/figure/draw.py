"""Figure of slot maps as in the paper, for one image and one or several models. Lengths are in inches."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from ...data.classification.views import View, describe_view
from ..maps import BlockMaps
from .page import BAR, QUIET, TEXT, Page, badge, save_figure
from .panels import COLOURS, Array, Block, canvas_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure

from matplotlib.colors import LinearSegmentedColormap, LogNorm, Normalize
from matplotlib.patches import Rectangle

from ...errors import InputError

__all__ = ["Column", "save_figure", "slot_figure"]

INK = LinearSegmentedColormap.from_list("ink", ["#f8f7f3", "#c3d5de", "#76a0ba", "#346587", "#123a58", "#04131f"])
EMBER = LinearSegmentedColormap.from_list("ember", ["#f8f7f3", "#f0d5bd", "#dc9c78", "#ae5a45", "#6c2a2c", "#2b0f16"])
ALARM, UNDER_GRID = "#b3261e", "#e3e3df"
LETTERS = "abcdefgh"
MARGIN, GAP, BAR_TEXT = 0.4, 0.11, 0.48
PICTURE = 1.75  # height of the image in the page header
TITLE = 0.62  # height of the header of a model's column
HEAD, FOOT = 0.52, 0.42  # space above and below the panels of a block
BETWEEN_COLUMNS = 0.7
LEGEND_WIDTH = 7.2  # width of the legend text next to the image
FINEST = 28  # minimum side of a map in the grid in pixels

HOW_TO_READ = (
    "Left: the map of each slot, its weight in each pixel (softmax over slots), {scale}.\n"
    "Frames: representative slots (medoids of k-medoids). Middle: the image where each of them has a high weight.\n"
    "Right: the strongest slot of each pixel, with the representative slots in their colours; below it, the effective\n"
    "number of slots per pixel (exp of the entropy of its weights)."
)
ONE_SCALE = "with one colour scale per block; the uniform weight is 1/S"
OWN_SCALE = "with a separate colour scale from its minimum to its maximum: do not compare"


@dataclass(frozen=True, eq=False)
class Column:
    """Maps and predictions of one model, drawn as one column.

    Args:
        title: name of the model or of its checkpoint.
        maps: maps of the blocks to draw, as `slot_maps` returns them; the first image of the batch is drawn.
        predictions: pairs (class name, probability), sorted by probability.
        warning: sentence to print in red, for random weights.
    """

    title: str
    maps: Sequence[BlockMaps]
    predictions: Sequence[tuple[str, float]] = ()
    warning: str | None = None


@dataclass(frozen=True)
class _Sizes:
    """Sizes of the panels of one block: the grid of all maps, pairs of representatives, two summary panels."""

    height: float
    grid: float  # width of the grid of all maps
    small: tuple[float, float]  # width and height of the other panels
    pairs: int  # number of columns of representatives, each of two panels

    @classmethod
    def fit(cls, width: float, block: Block, pairs: int) -> "_Sizes":
        """Return sizes for a band of about the given width, within limits on its height."""
        canvas_height, canvas_width = block.canvas.shape[:2]
        aspect = canvas_width / canvas_height
        rows, cols = block.maps.slot_grid
        fixed = 2 * (GAP + BAR + BAR_TEXT) + pairs * GAP
        height = (width - fixed) / (aspect * cols / rows + (pairs + 1) * aspect / 2)
        height = min(max(height, 1.5), 4.2)
        half = (height - GAP) / 2
        return cls(height, height * aspect * cols / rows, (half * aspect, half), pairs)

    @property
    def width(self) -> float:
        return self.grid + 2 * (GAP + BAR + BAR_TEXT) + (self.pairs + 1) * self.small[0] + self.pairs * GAP


def slot_figure(
    image: Image.Image,
    columns: Sequence[Column],
    *,
    size: tuple[int, int] | None = None,
    view: View | None = None,
    title: str = "",
    own_scale: bool = False,
    representatives: int | None = None,
) -> "Figure":
    """Draw the slot figure of one image: one row per block, one column per model.

    Args:
        image: picture of the model input, possibly at a higher resolution.
        columns: models, each with the same number of blocks; the maps in one row share one colour scale.
        size: height and width of the model input in pixels; None for the size of `image`.
        view: view of the image that the models get, printed next to the size.
        title: title of the figure, such as the name of the image file.
        own_scale: give each map its own colour scale, from its minimum to its maximum.
        representatives: number of slots that are drawn over the image, 1 to 8. None: 6 for one model, 4 for several.

    Raises:
        InputError: there are no blocks, models have different numbers of blocks, or `representatives` is out of range.
    """
    counts = {len(column.maps) for column in columns}
    if not columns or counts == {0} or len(counts) > 1:
        raise InputError(f"A figure needs the same number of blocks per model, at least 1; got {sorted(counts)}.")
    alone = len(columns) == 1
    count = (6 if alone else 4) if representatives is None else representatives
    if not 1 <= count <= len(COLOURS):
        raise InputError(f"representatives must be 1 to {len(COLOURS)} slots, got {count}.")
    canvas = canvas_of(image, max(maps.assignment.shape[1] for column in columns for maps in column.maps))
    rows = [[Block(maps, canvas, count) for maps in row] for row in zip(*(c.maps for c in columns), strict=True)]
    pairs = (count + 1) // 2
    sizes = [[_Sizes.fit(11.8 if alone else 8.6, block, pairs) for block in row] for row in rows]
    widths = [max(row[i].width for row in sizes) for i in range(len(columns))]
    heights = [HEAD + max(size.height for size in row) + FOOT for row in sizes]

    page = Page(
        2 * MARGIN + max(sum(widths) + BETWEEN_COLUMNS * (len(columns) - 1), _picture_size(canvas)[0] + LEGEND_WIDTH),
        2 * MARGIN + PICTURE + TITLE + sum(heights),
    )
    _draw_head(page, canvas, describe_view(view, size or (image.height, image.width)), title, own_scale)
    x = MARGIN
    for i, column in enumerate(columns):
        y = MARGIN + PICTURE + 0.3
        _draw_title(page, x, y, column)
        y += TITLE
        for row, row_sizes, height in zip(rows, sizes, heights, strict=True):
            high = max(block.largest for block in row)
            _draw_band(page, x, y, row_sizes[i], row[i], None if own_scale else high)
            y += height
        x += widths[i] + BETWEEN_COLUMNS
    return page.figure


def _picture_size(canvas: Array) -> tuple[float, float]:
    """Return width and height of the image in the page header."""
    aspect = canvas.shape[1] / canvas.shape[0]
    width = min(PICTURE * aspect, 2.5 * PICTURE)
    return width, width / aspect


def _draw_head(page: Page, canvas: Array, view: str, title: str, own_scale: bool) -> None:
    """Draw the page header: the image, the title, the view and how to read the figure."""
    width, height = _picture_size(canvas)
    page.panel(MARGIN, MARGIN, (width, height), canvas)
    x = MARGIN + width + 0.3
    page.text(x, MARGIN - 0.03, title, 14, TEXT, "bold")
    page.text(x, MARGIN + 0.3, view, 8.5, QUIET)
    scale = OWN_SCALE if own_scale else ONE_SCALE
    page.text(x, MARGIN + 0.68, HOW_TO_READ.format(scale=scale), 7.5, QUIET)


def _draw_title(page: Page, x: float, y: float, column: Column) -> None:
    """Draw the header of a column: the model's name, and its predictions or its warning."""
    page.text(x, y, column.title, 11, TEXT, "bold")
    predictions = "   ".join(f"{name} {probability:.1%}" for name, probability in column.predictions)
    if column.warning:
        page.text(x, y + 0.24, column.warning, 8.5, ALARM)
    elif predictions:
        page.text(x, y + 0.24, predictions, 8.5, QUIET)


def _draw_band(page: Page, x: float, y: float, sizes: _Sizes, block: Block, high: float | None) -> None:
    """Draw one block of one model.

    Args:
        high: upper end of the colour scale of all maps; None gives each map its own scale.
    """
    maps = block.maps
    scale = "" if maps.scale is None else f", scale {maps.scale:.3g}"
    page.text(x, y, f"Block {maps.index}", 9.5, TEXT, "bold")
    page.text(x + 0.72, y + 0.015, maps.name, 8.5, QUIET)
    numbers = (
        f"{maps.grid[1]} x {maps.grid[0]} pixels, {maps.slot_grid[1]} x {maps.slot_grid[0]} slots{scale}.  "
        f"Effective slots: {block.effective_per_pixel:.1f} per pixel, {block.effective_per_image:.1f} per image"
    )
    page.text(x, y + 0.21, numbers, 8, QUIET)
    y += HEAD
    _draw_grid(page, x, y, (sizes.grid, sizes.height), block, high)
    x += sizes.grid + GAP + BAR + BAR_TEXT
    _draw_representatives(page, x, y, sizes.small, block, high)
    x += sizes.pairs * (sizes.small[0] + GAP)
    _draw_summary(page, x, y, sizes.small, block)


def _draw_grid(page: Page, x: float, y: float, size: tuple[float, float], block: Block, high: float | None) -> None:
    """Draw all maps in the grid of the slots, with frames around representatives and a colour bar."""
    cols = block.maps.slot_grid[1]
    maps = block.slots if high is not None else _stretched(block.slots)
    times = -(-FINEST // max(block.maps.grid))
    maps = maps.repeat(times, 1).repeat(times, 2)  # smaller pixels, so that a gap of one pixel is thin
    h, w = maps.shape[1:]
    gap = max(1, round((h * w) ** 0.5 / 13))
    sheet = _mosaic(maps, cols, gap)
    norm = Normalize(0, 1 if high is None else high)
    axes = page.panel(x, y, size, sheet, cmap=INK, norm=norm, frame=None, smooth=False)
    axes.set_facecolor(UNDER_GRID)
    for letter, slot, colour in zip(LETTERS, block.representatives, COLOURS, strict=False):
        left, top = slot % cols * (w + gap) - 0.5 - gap / 4, slot // cols * (h + gap) - 0.5 - gap / 4
        frame = Rectangle((left, top), w + gap / 2, h + gap / 2, fill=False, ec=colour, lw=1.7, clip_on=False)
        axes.add_patch(frame)
        badge(axes, left, top, letter, colour, 6)
    ticks = {0.0: "low", 1.0: "high"} if high is None else _ticks(high, block)
    page.bar(x + size[0] + GAP, y, size[1], INK, norm, ticks)


def _ticks(high: float, block: Block) -> Mapping[float, str]:
    """Return labels of the ends of a colour scale and of the uniform weight."""
    beyond = "≥ " if block.strongest > high else ""
    return {0.0: "0", 1 / block.num_slots: f"1/{block.num_slots}", high: f"{beyond}{high:.2g}"}


def _mosaic(maps: Array, cols: int, gap: int) -> Array:
    """Arrange maps (S, h, w) in rows of `cols`, with a gap of NaN between them."""
    slots, h, w = maps.shape
    sheet = np.full((-(-slots // cols) * (h + gap) - gap, cols * (w + gap) - gap), np.nan, np.float32)
    for slot, one in enumerate(maps):
        top, left = slot // cols * (h + gap), slot % cols * (w + gap)
        sheet[top : top + h, left : left + w] = one
    return sheet


def _stretched(maps: Array) -> Array:
    """Rescale each map to 0 to 1; constant maps become 0."""
    low, high = maps.min((1, 2), keepdims=True), maps.max((1, 2), keepdims=True)
    stretched: Array = (maps - low) / np.maximum(high - low, 1e-12)
    return stretched


def _draw_representatives(
    page: Page, x: float, y: float, size: tuple[float, float], block: Block, high: float | None
) -> None:
    """Draw two rows of panels of `size`, each the image where one representative slot has a high weight."""
    pairs = (block.count + 1) // 2
    for place, (slot, colour) in enumerate(zip(block.representatives, COLOURS, strict=False)):
        one = block.slots[slot]
        ends = (0.0, high) if high is not None else (float(one.min()), float(one.max()))
        where = (x + place % pairs * (size[0] + GAP), y + place // pairs * (size[1] + GAP))
        axes = page.panel(*where, size, block.highlight(slot, *ends), frame=colour)
        badge(axes, -0.5, -0.5, LETTERS[place], colour)


def _draw_summary(page: Page, x: float, y: float, size: tuple[float, float], block: Block) -> None:
    """Draw the strongest slot of each pixel, and below it the number of effective slots of each pixel."""
    page.panel(x, y, size, block.segments())
    y += size[1] + GAP
    most = max(block.num_slots, 2)
    norm = LogNorm(1, most)
    page.panel(x, y, size, block.effective, cmap=EMBER, norm=norm, smooth=False)
    page.bar(x + size[0] + GAP, y, size[1], EMBER, norm, {1.0: "1", most**0.5: f"{most**0.5:.2g}", most: str(most)})
