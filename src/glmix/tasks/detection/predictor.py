"""A trained detector that takes pictures as they come, and pictures of what it says."""

import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor, nn
from torchvision.transforms.v2.functional import pil_to_tensor

from ...data.detection.rle import encode_mask
from ...data.scenes import class_colours
from ...errors import InputError
from ...weights import load
from .metrics import coco_results

__all__ = ["Detections", "DetectionPredictor", "overlay"]


@dataclass(frozen=True, eq=False)
class Detections:
    """What was found in one image, the surest first.

    Args:
        boxes: (n, 4), x1 y1 x2 y2 in pixels.
        labels: (n,), from 1.
        scores: (n,), from 0 to 1.
        masks: (n, h, w), in the size in which the detector was given the image; None from a detector without masks.
        size: (H, W) of the image, in whose pixels the boxes are; None where that is the masks' size.
    """

    boxes: NDArray[np.float32]
    labels: NDArray[np.int64]
    scores: NDArray[np.float32]
    masks: NDArray[np.bool_] | None
    size: tuple[int, int] | None = None

    def __len__(self) -> int:
        return len(self.scores)

    @property
    def areas(self) -> list[float]:
        """(n,): pixels of each mask, or of each box."""
        if self.masks is not None:
            return [float(mask.sum()) for mask in self.whole_masks()]
        return (self.boxes[:, 2:] - self.boxes[:, :2]).prod(1).tolist()

    def whole_masks(self) -> Iterator[NDArray[np.bool_]]:
        """Yield the masks in the size of the image (H, W), one at a time: all together may not fit the memory."""
        for mask in () if self.masks is None else self.masks:
            if self.size is None or mask.shape == self.size:
                yield mask
            else:
                yield np.asarray(Image.fromarray(mask).resize(self.size[::-1], Image.Resampling.NEAREST))

    def coco(self, image_id: int, category_ids: Sequence[int] | None = None) -> list[dict[str, Any]]:
        """Return the detections as COCO writes results; category_ids are those of the labels 1, 2, ..."""
        found = {
            "boxes": torch.from_numpy(self.boxes),
            "labels": torch.from_numpy(self.labels),
            "scores": torch.from_numpy(self.scores),
        }
        results = coco_results(image_id, found, category_ids)
        for result, mask in zip(results, self.whole_masks(), strict=self.masks is not None):
            result["segmentation"] = encode_mask(mask)
        return results

    def above(self, score: float) -> "Detections":
        """Return the detections whose score is at least this."""
        kept = self.scores >= score
        masks = None if self.masks is None else self.masks[kept]
        return Detections(self.boxes[kept], self.labels[kept], self.scores[kept], masks, self.size)


class DetectionPredictor:
    """Pictures of any size to what is in them.

    Args:
        network: a detector in the manner of torchvision's, which is copied: its own mode, device and thresholds stay as
            they are, and training it further does not change this predictor.
        class_names: of the labels 1, 2, ...
        category_ids: with which results are written; None for the labels themselves.
        score: the lowest score of a detection that is returned; None for the detector's own threshold, with which
            average precision is computed.
        device: where to compute.
        max_input_pixels: scale larger images down to this many pixels before the detector is given them, because it
            makes each mask in the size of what it is given. None: never.
    """

    def __init__(
        self,
        network: nn.Module,
        class_names: Sequence[str],
        category_ids: Sequence[int] | None = None,
        score: float | None = 0.5,
        device: str | torch.device = "cpu",
        max_input_pixels: int | None = None,
    ) -> None:
        if score is not None and not 0 <= score <= 1:
            raise InputError(f"score must be from 0 to 1, got {score}.")
        self.network = copy.deepcopy(network).to(device).eval()
        deciding: Any = getattr(self.network, "roi_heads", self.network)
        if score is None:
            score = float(deciding.score_thresh)
        # the detector itself drops what scores less, so that it computes no mask as large as the image for it
        deciding.score_thresh = score
        self.has_masks = hasattr(network, "roi_heads") and deciding.has_mask()
        self.class_names = tuple(class_names)
        self.category_ids = list(category_ids or range(1, len(self.class_names) + 1))
        self.score, self.device, self.max_input_pixels = score, device, max_input_pixels

    @classmethod
    def from_checkpoint(cls, path: str | Path, **options: Any) -> "DetectionPredictor":
        """Of a `.ckpt` of `glmix fit` on a detection task."""
        loaded = load(path)
        info = loaded.info
        if loaded.task != "Detection":
            raise InputError(f"{path} holds a network for {loaded.task or 'classification'}, not for detection.")
        names = info["class_names"] or [f"class {k}" for k in range(1, info["num_classes"] + 1)]
        return cls(loaded.network, names, info.get("category_ids"), **options)

    def is_too_large(self, image: Image.Image) -> bool:
        """Tell whether an image is scaled down first because of its size."""
        return self.max_input_pixels is not None and image.width * image.height > self.max_input_pixels

    @torch.inference_mode()
    def __call__(self, image: Image.Image) -> Detections:
        given = image.convert("RGB")
        if self.max_input_pixels is not None and self.is_too_large(image):
            factor = (self.max_input_pixels / (image.width * image.height)) ** 0.5
            given = given.resize((max(1, int(image.width * factor)), max(1, int(image.height * factor))))
        found: Mapping[str, Tensor] = self.network([pil_to_tensor(given).to(self.device)])[0]
        kept = found["scores"] >= self.score
        masks = (found["masks"][kept, 0] >= 0.5).cpu().numpy() if "masks" in found else None
        boxes, labels, scores = (found[name][kept].cpu().numpy() for name in ("boxes", "labels", "scores"))
        boxes = boxes * np.array([image.width / given.width, image.height / given.height] * 2, boxes.dtype)
        return Detections(boxes, labels, scores, masks, (image.height, image.width))


def overlay(image: Image.Image, found: Detections, class_names: Sequence[str], strength: float = 0.45) -> Image.Image:
    """The picture with a tint on each mask, a box around each object and its name and score, by class in colour.

    Small pictures are enlarged, so that names can be read; one that was scaled down for the detector is drawn so.
    """
    boxes = found.boxes
    if found.masks is not None and found.masks.shape[1:] != (image.height, image.width):
        height, width = found.masks.shape[1:]
        boxes = boxes * np.array([width / image.width, height / image.height] * 2, boxes.dtype)
        image = image.resize((width, height))
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
        draw.rectangle((boxes[k] * scale).tolist(), outline=tuple(colours[found.labels[k]].tolist()), width=line)
    for k in order:
        text = f"{class_names[found.labels[k] - 1].replace('_', ' ')} {found.scores[k]:.0%}"
        _tag(draw, boxes[k] * scale, text, tuple(colours[found.labels[k]].tolist()), font)
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
