"""A trained detector as a predictor for images of any size."""

import copy
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn
from torchvision.transforms.v2.functional import pil_to_tensor

from ...data.core.image_files import as_image
from ...data.detection.rle import encode_mask
from ...drawing import draw_detections
from ...errors import InputError
from ...weights import load
from .metrics import coco_results

__all__ = ["Detections", "DetectionPredictor", "overlay"]


@dataclass(frozen=True, eq=False)
class Detections:
    """The detections in one image, sorted by descending confidence score.

    Args:
        boxes: bounding boxes (n, 4), x1 y1 x2 y2 in pixels of the image.
        labels: class labels (n,), counted from 1.
        scores: confidence scores (n,), from 0 to 1.
        masks: instance masks (n, h, w), in the size of the detector's input image; None from a detector without masks.
        size: (H, W) of the image; None if it is the size of the masks.
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
        """The area in pixels of each mask, or of each box from a detector without masks, (n,)."""
        if self.masks is not None:
            return [float(mask.sum()) for mask in self.whole_masks()]
        return (self.boxes[:, 2:] - self.boxes[:, :2]).prod(1).tolist()

    def whole_masks(self) -> Iterator[NDArray[np.bool_]]:
        """Yield the masks in the size of the image (H, W), one at a time: all of them may not fit in memory."""
        for mask in () if self.masks is None else self.masks:
            if self.size is None or mask.shape == self.size:
                yield mask
            else:
                yield np.asarray(Image.fromarray(mask).resize(self.size[::-1], Image.Resampling.NEAREST))

    def coco(self, image_id: int, category_ids: Sequence[int] | None = None) -> list[dict[str, Any]]:
        """Return the detections in the COCO results format.

        Args:
            image_id: the id of the image.
            category_ids: the category ids of the labels 1, 2, ...; None uses the labels themselves.
        """
        predictions = {
            "boxes": torch.from_numpy(self.boxes),
            "labels": torch.from_numpy(self.labels),
            "scores": torch.from_numpy(self.scores),
        }
        results = coco_results(image_id, predictions, category_ids)
        for result, mask in zip(results, self.whole_masks(), strict=self.masks is not None):
            result["segmentation"] = encode_mask(mask)
        return results

    def annotations(self, image_id: int, category_ids: Sequence[int] | None = None) -> list[dict[str, Any]]:
        """Return the detections as annotations of a COCO JSON with scores and without ids; see `coco`."""
        results = zip(self.coco(image_id, category_ids), self.areas, strict=True)
        return [{**result, "area": area, "iscrowd": 0} for result, area in results]

    def above(self, score: float) -> "Detections":
        """Return the detections whose score is at least `score`."""
        kept = self.scores >= score
        masks = None if self.masks is None else self.masks[kept]
        return Detections(self.boxes[kept], self.labels[kept], self.scores[kept], masks, self.size)


class DetectionPredictor:
    """Detect objects in images of any size.

    Args:
        network: a detector with the interface of torchvision's detectors. It is copied: its mode, device and
            thresholds do not change, and further training of it does not change the predictor.
        class_names: the names of the labels 1, 2, ...
        category_ids: the category ids of the labels in COCO results; None uses the labels themselves.
        score: the score threshold of the returned detections; None uses the detector's own threshold, with which
            average precision is computed.
        device: the device of the computation.
        max_input_pixels: scale larger images down to this number of pixels before detection, because the detector
            makes every mask in the size of its input image. None never scales images down.
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
        thresholded: Any = getattr(self.network, "roi_heads", self.network)
        if score is None:
            score = float(thresholded.score_thresh)
        # the detector drops detections below the threshold itself, before it computes their full-size masks
        thresholded.score_thresh = score
        self.has_masks = hasattr(network, "roi_heads") and thresholded.has_mask()
        self.class_names = tuple(class_names)
        self.category_ids = list(category_ids or range(1, len(self.class_names) + 1))
        self.score, self.device, self.max_input_pixels = score, device, max_input_pixels

    @classmethod
    def from_checkpoint(cls, path: str | Path, **options: Any) -> "DetectionPredictor":
        """Load a predictor from a `.ckpt` of `glmix fit` on a detection task, or a folder of `glmix convert`.

        Args:
            path: the checkpoint or the folder.
            options: further arguments of the constructor.

        Raises:
            InputError: the checkpoint is of another task.
        """
        loaded = load(path)
        info = loaded.info
        if loaded.task != "Detection":
            raise InputError(f"{path} holds a network for {loaded.task or 'classification'}, not for detection.")
        names = info["class_names"] or [f"class {k}" for k in range(1, info["num_classes"] + 1)]
        return cls(loaded.network, names, info.get("category_ids"), **options)

    def is_too_large(self, image: Image.Image) -> bool:
        """Return whether an image exceeds `max_input_pixels` and is scaled down before detection."""
        return self.max_input_pixels is not None and image.width * image.height > self.max_input_pixels

    @torch.inference_mode()
    def __call__(self, image: str | os.PathLike[str] | Image.Image | NDArray[np.uint8]) -> Detections:
        """Detect the objects in an image.

        Args:
            image: a file, a Pillow image, or pixels (H, W, 3) of type uint8.

        Returns:
            The detections, with boxes in pixels of the upright image.

        Raises:
            FileNotFoundError: there is no such file.
            InputError: the file is not an image, or the array has another shape or type.
        """
        image = scaled = as_image(image)
        if self.max_input_pixels is not None and self.is_too_large(image):
            factor = (self.max_input_pixels / (image.width * image.height)) ** 0.5
            scaled = scaled.resize((max(1, int(image.width * factor)), max(1, int(image.height * factor))))
        predictions: Mapping[str, Tensor] = self.network([pil_to_tensor(scaled).to(self.device)])[0]
        kept = predictions["scores"] >= self.score
        masks = (predictions["masks"][kept, 0] >= 0.5).cpu().numpy() if "masks" in predictions else None
        boxes, labels, scores = (predictions[name][kept].cpu().numpy() for name in ("boxes", "labels", "scores"))
        boxes = boxes * np.array([image.width / scaled.width, image.height / scaled.height] * 2, boxes.dtype)
        return Detections(boxes, labels, scores, masks, (image.height, image.width))


def overlay(
    image: Image.Image, detections: Detections, class_names: Sequence[str], strength: float = 0.45
) -> Image.Image:
    """Draw the detections of an image: see `glmix.drawing.draw_detections`."""
    return draw_detections(
        image, detections.boxes, detections.labels, detections.scores, detections.masks, class_names, strength
    )
