"""Drawing of masks, bounding boxes, labels and legends on images.

`torchvision.utils.draw_segmentation_masks` is not used: it takes one mask per class, (K, H, W), and paints pixels
black where masks overlap. `torchvision.utils.draw_bounding_boxes` is not used: it sets the font size only for a font
file, and it does not keep labels inside the image.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from .data.scenes import class_colours

__all__ = ["draw_detections", "draw_segmentation", "label_colours", "palette_image"]

Labels = NDArray[np.uint8]
Colour = tuple[int, ...]

LEGEND_ROW, SWATCH, MARGIN = 20, 13, 6  # pixels
PIXELS_PER_STRIP = 2**20  # pixels that are blended at once, which bounds the memory for large images


def palette_image(labels: Labels, class_names: Sequence[str]) -> Image.Image:
    """Return a label map (H, W) as an image of class indices with a colour palette, which can be saved as PNG."""
    image = Image.fromarray(labels)
    image.putpalette(label_colours(class_names).ravel().tolist())
    return image


def draw_segmentation(
    image: Image.Image, labels: Labels, class_names: Sequence[str], strength: float = 0.5
) -> Image.Image:
    """Draw a label map on an image: a tint per class, white lines between classes and a legend below the image.

    The first class has no tint and no legend entry if its name is `background`. The image is blended in strips, so
    that no floating-point copy of the whole image is in memory.

    Args:
        image: the image, of H x W pixels.
        labels: the class index of each pixel, (H, W) uint8.
        class_names: the names of the K classes.
        strength: opacity of the tint, from 0 to 1.
    """
    colours = label_colours(class_names)
    opacity = np.full((len(class_names), 1), strength)
    if class_names[0] == "background":
        opacity[0] = 0
    pixels = np.array(image.convert("RGB"))
    boundaries = _class_boundaries(labels)
    rows = max(1, PIXELS_PER_STRIP // pixels.shape[1])
    for top in range(0, len(pixels), rows):
        strip = slice(top, top + rows)
        alpha = opacity[labels[strip]]
        pixels[strip] = ((1 - alpha) * pixels[strip] + alpha * colours[labels[strip]]).round()
    pixels[boundaries] = 255
    present = [k for k, count in enumerate(Image.fromarray(labels).histogram()) if count and opacity[k]]
    entries = [(class_names[k], tuple(colours[k].tolist())) for k in present]
    return _add_legend(Image.fromarray(pixels), entries)


def draw_detections(
    image: Image.Image,
    boxes: NDArray[np.float32],
    labels: NDArray[np.int64],
    scores: NDArray[np.float32],
    masks: NDArray[np.bool_] | None,
    class_names: Sequence[str],
    strength: float = 0.45,
) -> Image.Image:
    """Draw detections on an image: a tint per instance mask, and a bounding box with class name and score per object.

    Small images are enlarged, so that the labels are readable. If the masks are smaller than the image, the image is
    scaled down to the size of the masks.

    Args:
        image: the image, of H x W pixels.
        boxes: (n, 4), x1 y1 x2 y2 in pixels of the image, sorted by descending score.
        labels: class labels (n,), counted from 1.
        scores: confidence scores (n,), from 0 to 1.
        masks: instance masks (n, h, w), or None.
        class_names: the names of the labels 1, 2, ...
        strength: opacity of the tint, from 0 to 1.
    """
    if masks is not None and masks.shape[1:] != (image.height, image.width):
        height, width = masks.shape[1:]
        boxes = boxes * np.array([width / image.width, height / image.height] * 2, boxes.dtype)
        image = image.resize((width, height))
    scale = max(1, round(400 / max(image.size)))
    canvas = image.convert("RGB").resize((image.width * scale, image.height * scale), Image.Resampling.NEAREST)
    colours = class_colours(len(class_names))
    if masks is not None:
        pixels = np.asarray(canvas, np.float32)
        for mask, label in reversed(list(zip(masks, labels, strict=True))):  # the highest score is drawn last, on top
            alpha = (strength * mask.repeat(scale, 0).repeat(scale, 1))[..., None]
            pixels = (1 - alpha) * pixels + alpha * colours[label]
        canvas = Image.fromarray(pixels.round().astype(np.uint8))
    draw = ImageDraw.Draw(canvas)
    line_width = max(2, min(canvas.size) // 250)
    font = ImageFont.load_default(max(12, min(canvas.size) // 40))
    order = list(reversed(range(len(scores))))
    for k in order:
        draw.rectangle((boxes[k] * scale).tolist(), outline=tuple(colours[labels[k]].tolist()), width=line_width)
    for k in order:
        text = f"{class_names[labels[k] - 1].replace('_', ' ')} {scores[k]:.0%}"
        _draw_label(draw, boxes[k] * scale, text, tuple(colours[labels[k]].tolist()), font)
    return canvas


def label_colours(class_names: Sequence[str]) -> Labels:
    """Return an RGB colour per class, (K, 3); a first class named `background` has its own colour."""
    num_classes = len(class_names)
    return class_colours(num_classes - 1) if class_names[0] == "background" else class_colours(num_classes)[1:]


def _class_boundaries(labels: Labels) -> NDArray[np.bool_]:
    """Return a mask (H, W) of the pixels whose right or lower neighbour has another class."""
    boundaries = np.zeros(labels.shape, bool)
    boundaries[:, :-1] = labels[:, :-1] != labels[:, 1:]
    boundaries[:-1] |= labels[:-1] != labels[1:]
    return boundaries


def _add_legend(image: Image.Image, entries: Sequence[tuple[str, Colour]]) -> Image.Image:
    """Add colour swatches and names below an image, in as many rows as they need."""
    if not entries:
        return image
    positions = []
    x = y = MARGIN
    for name, colour in entries:
        text = name.replace("_", " ")
        entry_width = SWATCH + 6 + 7 * len(text) + 12
        if x > MARGIN and x + entry_width > image.width:
            x, y = MARGIN, y + LEGEND_ROW
        positions.append((x, y, text, colour))
        x += entry_width
    canvas = Image.new("RGB", (image.width, image.height + y + LEGEND_ROW), "white")
    canvas.paste(image, (0, 0))
    draw = ImageDraw.Draw(canvas)
    for x, y, text, colour in positions:
        top = image.height + y
        draw.rectangle((x, top, x + SWATCH, top + SWATCH), fill=colour)
        draw.text((x + SWATCH + 6, top), text, fill="black", font_size=12)
    return canvas


def _draw_label(draw: ImageDraw.ImageDraw, box: NDArray[np.float32], text: str, colour: Colour, font: Any) -> None:
    """Draw a label on a filled rectangle above the box, or inside the box if there is no room above it."""
    _, _, right, bottom = draw.textbbox((0, 0), text, font=font)
    width, height = right + 6, bottom + 5
    x = min(max(float(box[0]), 0), max(draw.im.size[0] - width, 0))
    y = float(box[1]) - height if box[1] >= height else float(box[1])
    draw.rectangle((x, y, x + width, y + height), fill=colour)
    dark = sum(weight * channel for weight, channel in zip((0.299, 0.587, 0.114), colour, strict=True)) < 140
    draw.text((x + 3, y + 1), text, fill="white" if dark else "black", font=font)
