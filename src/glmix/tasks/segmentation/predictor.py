"""A trained network that takes pictures as they come, and pictures of what it says."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from torch import Tensor, nn
from torchvision.transforms.v2 import functional as V

from ...data.scenes import class_colours
from ...data.segmentation.transforms import fitted_size
from ...errors import InputError
from ...weights import load
from .inference import WHOLE, Inference, label_map, segment, sliding_window_labels

__all__ = ["SegmentationPredictor", "overlay", "palette_image"]

Labels = NDArray[np.uint8]

ROW, SWATCH, MARGIN = 20, 13, 6
STRIP = 2**20  # pixels that are tinted at once


class SegmentationPredictor:
    """Pictures of any size to labels of the same size.

    Args:
        network: images (B, 3, H, W) to scores (B, K, H, W).
        class_names: of the K classes.
        mean, std: of each colour, white being 1, that the network is used to.
        resize: a box of (longer, shorter) side that pictures are scaled to fit before; None leaves them as they are.
        how: how each is looked at.
        device: where to compute.
        max_input_pixels: images in which the network would see more pixels, at the largest of the scales, are segmented
            in sliding windows, with memory that does not grow with the number of classes times that of pixels. Each
            window is then seen at all scales. None: never by itself.
    """

    def __init__(
        self,
        network: nn.Module,
        class_names: Sequence[str],
        mean: Sequence[float],
        std: Sequence[float],
        resize: tuple[int, int] | None = None,
        how: Inference = WHOLE,
        device: str | torch.device = "cpu",
        max_input_pixels: int | None = None,
    ) -> None:
        self.network = network.to(device).eval()
        self.class_names = tuple(class_names)
        self.max_input_pixels = max_input_pixels
        self.mean, self.std = list(mean), list(std)
        self.resize, self.how, self.device = resize, how, device

    @classmethod
    def from_checkpoint(cls, path: str | Path, **options: Any) -> "SegmentationPredictor":
        """Of a `.ckpt` of `glmix fit` on a segmentation task; options replace what it says."""
        loaded = load(path)
        info = loaded.info
        if loaded.task != "Segmentation":
            raise InputError(f"{path} holds a network for {loaded.task or 'classification'}, not for segmentation.")
        if info["mean"] is None or info["std"] is None:
            raise InputError(f"{path} does not say how its images were normalised.")
        names = info["class_names"] or [f"class {k}" for k in range(info["num_classes"])]
        known = {"class_names": names, "mean": info["mean"], "std": info["std"], "resize": info.get("resize")}
        return cls(loaded.network, **{**known, **options})

    def is_too_large(self, image: Image.Image) -> bool:
        """Tell whether an image is segmented in windows because of its size."""
        if self.max_input_pixels is None:
            return False
        height, width = fitted_size((image.height, image.width), self.resize)
        return height * width * max(self.how.scales) ** 2 > self.max_input_pixels

    @torch.inference_mode()
    def __call__(self, image: Image.Image) -> Labels:
        """(H, W): the class of each pixel."""
        x = V.pil_to_tensor(image.convert("RGB")).to(self.device)
        height, width = int(x.shape[1]), int(x.shape[2])
        x = V.resize(x, list(fitted_size((height, width), self.resize)), antialias=True).unsqueeze(0)
        if self.is_too_large(image):
            how = replace(self.how, mode="whole")
            found = sliding_window_labels(
                lambda part: segment(self.network, self._normalised(part), how), x, how.window, how.stride
            )
            labels = V.resize(found, [height, width], V.InterpolationMode.NEAREST)
        else:
            labels = label_map(segment(self.network, self._normalised(x), self.how), (height, width))
        result: Labels = labels[0].to(torch.uint8).cpu().numpy()
        return result

    def _normalised(self, x: Tensor) -> Tensor:
        """uint8 (B, 3, H, W) to what the network is used to."""
        normalised: Tensor = V.normalize(V.to_dtype(x, torch.float32, scale=True), self.mean, self.std)
        return normalised


def _colours(num_classes: int, first_is_background: bool) -> Labels:
    """(num_classes, 3)"""
    return class_colours(num_classes - 1) if first_is_background else class_colours(num_classes)[1:]


def palette_image(labels: Labels, class_names: Sequence[str]) -> Image.Image:
    """A PNG-able mask of indices, with a colour for each class."""
    image = Image.fromarray(labels)
    image.putpalette(_colours(len(class_names), class_names[0] == "background").ravel().tolist())
    return image


def overlay(image: Image.Image, labels: Labels, class_names: Sequence[str], strength: float = 0.5) -> Image.Image:
    """The picture tinted by class, with white lines between classes and, below, the names of those that it shows.

    A class named background, if it is the first, has no tint.
    """
    colours = _colours(len(class_names), class_names[0] == "background")
    weights = np.full((len(class_names), 1), strength)
    if class_names[0] == "background":
        weights[0] = 0
    pixels = np.array(image.convert("RGB"))
    borders = _borders(labels)
    rows = max(1, STRIP // pixels.shape[1])
    for top in range(0, len(pixels), rows):
        strip = slice(top, top + rows)
        tint = weights[labels[strip]]
        pixels[strip] = ((1 - tint) * pixels[strip] + tint * colours[labels[strip]]).round()
    pixels[borders] = 255
    shown = [k for k, count in enumerate(Image.fromarray(labels).histogram()) if count and weights[k]]
    picture = Image.fromarray(pixels)
    return _with_legend(picture, [(class_names[k], tuple(colours[k].tolist())) for k in shown])


def _borders(labels: Labels) -> NDArray[np.bool_]:
    """Pixels whose right or lower neighbour is of another class."""
    borders = np.zeros(labels.shape, bool)
    borders[:, :-1] = labels[:, :-1] != labels[:, 1:]
    borders[:-1] |= labels[:-1] != labels[1:]
    return borders


def _with_legend(picture: Image.Image, entries: Sequence[tuple[str, tuple[int, ...]]]) -> Image.Image:
    """The picture with swatches and names below it, in as many rows as they need."""
    places = []
    x = y = MARGIN
    for name, colour in entries:
        text = name.replace("_", " ")
        step = SWATCH + 6 + 7 * len(text) + 12
        if x > MARGIN and x + step > picture.width:
            x, y = MARGIN, y + ROW
        places.append((x, y, text, colour))
        x += step
    if not places:
        return picture
    whole = Image.new("RGB", (picture.width, picture.height + y + ROW), "white")
    whole.paste(picture, (0, 0))
    draw = ImageDraw.Draw(whole)
    for x, y, text, colour in places:
        top = picture.height + y
        draw.rectangle((x, top, x + SWATCH, top + SWATCH), fill=colour)
        draw.text((x + SWATCH + 6, top), text, fill="black", font_size=12)
    return whole
