"""Contact sheet of scenes with their masks, bounding boxes and a legend of classes."""

import colorsys
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from ...errors import InputError
from .draw import Scene, SceneConfig

__all__ = ["class_colours", "contact_sheet"]

MARGIN = 8
LEGEND_ROW = 20


def class_colours(num_classes: int) -> NDArray[np.uint8]:
    """Return colours of a semantic mask (num_classes + 1, 3): dark grey for the background, then distinct hues."""
    hues = (0.02 + np.arange(num_classes) / num_classes).tolist()
    tones = [colorsys.hsv_to_rgb(hue % 1, 0.75, 0.95 if k % 2 == 0 else 0.70) for k, hue in enumerate(hues)]
    return (np.array([(0.15, 0.15, 0.15), *tones]) * 255).round().astype(np.uint8)


def contact_sheet(scenes: Sequence[Scene], config: SceneConfig, columns: int = 8, scale: int = 2) -> Image.Image:
    """Draw scenes in rows, with the semantic mask and the bounding boxes below each scene.

    Args:
        scenes: scenes to draw.
        config: configuration of the scenes.
        columns: scenes per row.
        scale: size of a scene pixel in the sheet.
    """
    if columns < 1 or scale < 1:
        raise InputError(f"columns and scale must be at least 1, got {columns} and {scale}.")
    cell = config.size * scale
    columns = min(columns, len(scenes))
    width = MARGIN + columns * (cell + MARGIN)
    colours = class_colours(config.num_classes)
    legend = _draw_legend(config, colours, width)
    rows = -(-len(scenes) // columns)
    sheet = Image.new("RGB", (width, MARGIN + rows * (2 * cell + 2 * MARGIN) + legend.height), "white")
    for k, scene in enumerate(scenes):
        left = MARGIN + k % columns * (cell + MARGIN)
        top = MARGIN + k // columns * (2 * cell + 2 * MARGIN)
        sheet.paste(_enlarge(scene.image, cell), (left, top))
        sheet.paste(_draw_mask(scene, colours, cell, scale), (left, top + cell + 2))
    sheet.paste(legend, (0, sheet.height - legend.height))
    return sheet


def _enlarge(pixels: NDArray[np.uint8], cell: int) -> Image.Image:
    return Image.fromarray(pixels).resize((cell, cell), Image.Resampling.NEAREST)


def _draw_mask(scene: Scene, colours: NDArray[np.uint8], cell: int, scale: int) -> Image.Image:
    """Draw the semantic mask in colour with the bounding boxes."""
    picture = _enlarge(colours[scene.semantic], cell)
    draw = ImageDraw.Draw(picture)
    for x1, y1, x2, y2 in (scene.boxes * scale).tolist():
        draw.rectangle((x1, y1, x2 - 1, y2 - 1), outline="white")
    return picture


def _draw_legend(config: SceneConfig, colours: NDArray[np.uint8], width: int) -> Image.Image:
    """Draw the colour and name of every class."""
    names = [name.replace("_", " ") for name in config.class_names]
    step = 40 + 7 * max(map(len, names))
    per_row = max(1, (width - MARGIN) // step)
    legend = Image.new("RGB", (width, MARGIN + LEGEND_ROW * -(-len(names) // per_row)), "white")
    draw = ImageDraw.Draw(legend)
    for k, name in enumerate(names):
        x, y = MARGIN + k % per_row * step, k // per_row * LEGEND_ROW
        draw.rectangle((x, y, x + 13, y + 13), fill=tuple(colours[k + 1].tolist()))
        draw.text((x + 20, y), name, fill="black", font_size=13)
    return legend
