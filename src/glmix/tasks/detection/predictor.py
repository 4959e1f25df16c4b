"""A trained detector that takes pictures as they come, and pictures of what it says."""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor, nn
from torchvision.transforms.v2.functional import pil_to_tensor

from ...data.scenes import class_colours
from ...errors import InputError
from ..trained import load_trained, read_info
from .scores import coco_results

__all__ = ["Detections", "DetectionPredictor", "overlay"]


@dataclass(frozen=True, eq=False)
class Detections:
    """What was found in one image, the surest first.

    Args:
        boxes: (n, 4), x1 y1 x2 y2 in pixels.
        labels: (n,), from 1.
        scores: (n,), from 0 to 1.
        masks: (n, H, W), or None from a detector without masks.
    """

    boxes: NDArray[np.float32]
    labels: NDArray[np.int64]
    scores: NDArray[np.float32]
    masks: NDArray[np.bool_] | None

    def __len__(self) -> int:
        return len(self.scores)

    @property
    def areas(self) -> list[float]:
        """(n,): pixels of each mask, or of each box."""
        if self.masks is not None:
            return self.masks.sum((1, 2)).astype(float).tolist()
        return (self.boxes[:, 2:] - self.boxes[:, :2]).prod(1).tolist()

    def coco(self, image_id: int, category_ids: Sequence[int]) -> list[dict[str, Any]]:
        """As COCO writes results."""
        found = {
            "boxes": torch.from_numpy(self.boxes),
            "labels": torch.from_numpy(self.labels),
            "scores": torch.from_numpy(self.scores),
        }
        if self.masks is not None:
            found["masks"] = torch.from_numpy(self.masks).unsqueeze(1).float()
        return coco_results(image_id, found, category_ids)


class DetectionPredictor:
    """Pictures of any size to what is in them.

    Args:
        network: a detector in the manner of torchvision's, which is copied: its own mode, device and thresholds stay as
            they are, and training it further does not change this predictor.
        class_names: of the labels 1, 2, ...
        category_ids: with which results are written; None for the labels themselves.
        score: detections with a lower score are left out.
        device: where to compute.
    """

    def __init__(
        self,
        network: nn.Module,
        class_names: Sequence[str],
        category_ids: Sequence[int] | None = None,
        score: float = 0.5,
        device: str | torch.device = "cpu",
    ) -> None:
        if not 0 <= score <= 1:
            raise InputError(f"score must be from 0 to 1, got {score}.")
        self.network = copy.deepcopy(network).to(device).eval()
        # The detector itself drops what scores less, so that no mask as large as the image is computed for it.
        deciding: Any = getattr(self.network, "roi_heads", self.network)
        deciding.score_thresh = score
        self.class_names = tuple(class_names)
        self.category_ids = list(category_ids or range(1, len(self.class_names) + 1))
        self.score, self.device = score, device

    @classmethod
    def from_checkpoint(cls, path: str | Path, **options: Any) -> "DetectionPredictor":
        """Of a `.ckpt` of `glmix fit` on a detection task."""
        info = read_info(path)
        if info["task"] != "Detection":
            raise InputError(f"{path} holds a network for {info['task']}, and a detector is needed.")
        names = info["class_names"] or [f"class {k}" for k in range(1, info["num_classes"] + 1)]
        return cls(load_trained(path), names, info.get("category_ids"), **options)

    @torch.inference_mode()
    def __call__(self, image: Image.Image) -> Detections:
        found: Mapping[str, Tensor] = self.network([pil_to_tensor(image.convert("RGB")).to(self.device)])[0]
        kept = found["scores"] >= self.score
        masks = (found["masks"][kept, 0] >= 0.5).cpu().numpy() if "masks" in found else None
        boxes, labels, scores = (found[name][kept].cpu().numpy() for name in ("boxes", "labels", "scores"))
        return Detections(boxes, labels, scores, masks)


def overlay(image: Image.Image, found: Detections, class_names: Sequence[str], strength: float = 0.45) -> Image.Image:
    """The picture with a tint on each mask, a box around each object and its name and score, by class in colour.

    Small pictures are enlarged, so that names can be read.
    """
    scale = max(1, round(400 / max(image.size)))
    picture = image.convert("RGB").resize((image.width * scale, image.height * scale), Image.Resampling.NEAREST)
    colours = class_colours(len(class_names))
    if found.masks is not None:
        pixels = np.asarray(picture, np.float32)
        for mask, label in reversed(list(zip(found.masks, found.labels, strict=True))):  # the surest on top
            tint = (strength * mask.repeat(scale, 0).repeat(scale, 1))[..., None]
            pixels = (1 - tint) * pixels + tint * colours[label]
        picture = Image.fromarray(pixels.round().astype(np.uint8))
    draw = ImageDraw.Draw(picture)
    line = max(2, min(picture.size) // 250)
    font = ImageFont.load_default(max(12, min(picture.size) // 40))
    order = list(reversed(range(len(found))))
    for k in order:
        draw.rectangle((found.boxes[k] * scale).tolist(), outline=tuple(colours[found.labels[k]].tolist()), width=line)
    for k in order:
        text = f"{class_names[found.labels[k] - 1].replace('_', ' ')} {found.scores[k]:.0%}"
        _tag(draw, found.boxes[k] * scale, text, tuple(colours[found.labels[k]].tolist()), font)
    return picture


def _tag(draw: ImageDraw.ImageDraw, box: NDArray[np.float32], text: str, colour: tuple[int, ...], font: Any) -> None:
    """A name on a patch of colour: above the box, or in it where there is no room, inside of the picture."""
    _, _, right, bottom = draw.textbbox((0, 0), text, font=font)
    width, height = right + 6, bottom + 5
    x = min(max(float(box[0]), 0), max(draw.im.size[0] - width, 0))
    y = float(box[1]) - height if box[1] >= height else float(box[1])
    draw.rectangle((x, y, x + width, y + height), fill=colour)
    dark = sum(weight * part for weight, part in zip((0.299, 0.587, 0.114), colour, strict=True)) < 140
    draw.text((x + 3, y + 1), text, fill="white" if dark else "black", font=font)
