"""A trained network that takes pictures as they come, and pictures of what it says."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from torch import nn
from torchvision.transforms.v2 import functional as V

from ...data.masks.transforms import fitted_size
from ...data.scenes import class_colours
from ...errors import InputError
from ..trained import load_trained, read_info
from .inference import WHOLE, Inference, label_map, segment

__all__ = ["SegmentationPredictor", "overlay", "palette_image"]

Labels = NDArray[np.uint8]

ROW, SWATCH, MARGIN = 20, 13, 6


class SegmentationPredictor:
    """Pictures of any size to labels of the same size.

    Args:
        network: images (B, 3, H, W) to scores (B, K, H, W).
        class_names: of the K classes.
        mean, std: of each colour, white being 1, that the network is used to.
        resize: a box of (longer, shorter) side that pictures are scaled to fit before; None leaves them as they are.
        how: how each is looked at.
        device: where to compute.
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
    ) -> None:
        self.network = network.to(device).eval()
        self.class_names = tuple(class_names)
        self.mean, self.std = list(mean), list(std)
        self.resize, self.how, self.device = resize, how, device

    @classmethod
    def from_checkpoint(cls, path: str | Path, **options: Any) -> "SegmentationPredictor":
        """Of a `.ckpt` of `glmix fit` on a segmentation task; options replace what it says."""
        info = read_info(path)
        if info["task"] != "Segmentation":
            raise InputError(f"{path} holds a network for {info['task']}, and a segmentation is needed.")
        if info["mean"] is None or info["std"] is None:
            raise InputError(f"{path} does not say how its images were normalised.")
        names = info["class_names"] or [f"class {k}" for k in range(info["num_classes"])]
        known = {"class_names": names, "mean": info["mean"], "std": info["std"], "resize": info.get("resize")}
        return cls(load_trained(path), **{**known, **options})

    @torch.inference_mode()
    def __call__(self, image: Image.Image) -> Labels:
        """(H, W): the class of each pixel."""
        x = V.pil_to_tensor(image.convert("RGB")).to(self.device)
        height, width = int(x.shape[1]), int(x.shape[2])
        size = list(fitted_size((height, width), self.resize))
        x = V.to_dtype(V.resize(x, size, antialias=True), torch.float32, scale=True)
        scores = segment(self.network, V.normalize(x, self.mean, self.std).unsqueeze(0), self.how)
        labels: Labels = label_map(scores, (height, width))[0].to(torch.uint8).cpu().numpy()
        return labels


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
    pixels = np.asarray(image.convert("RGB"), np.float32)
    tinted = (1 - weights[labels]) * pixels + weights[labels] * colours[labels]
    tinted[_borders(labels)] = 255
    shown = [int(k) for k in np.unique(labels) if weights[k]]
    picture = Image.fromarray(tinted.round().astype(np.uint8))
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
