"""A trained detector as a predictor for images of any size, alone or with `glmix.inference`."""

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
from torchvision.transforms.v2.functional import pil_to_tensor, to_pil_image

from ...data.core.image_files import ImageReader, as_image
from ...data.detection.rle import encode_mask, mask_area
from ...data.detection.transforms import shortest_edge
from ...drawing import draw_detections
from ...errors import InputError
from ...weights import load
from .metrics import coco_results
from .padding import DetectorTransform

__all__ = ["Detections", "DetectionPredictor", "overlay"]

MAX_PADDING = 1.3  # pixels of a padded batch by those of its images


@dataclass(frozen=True, eq=False)
class Detections:
    """The detections in one image, sorted by descending confidence score.

    Args:
        boxes: bounding boxes (n, 4), x1 y1 x2 y2 in pixels of the image.
        labels: class labels (n,), counted from 1.
        scores: confidence scores (n,), from 0 to 1.
        masks: instance masks (n, h, w), in the size of the detector's input image; None from a detector without masks.
        size: (H, W) of the image; None if it is the size of the masks.
        rles: the counts of the compressed RLE of each mask in the size of the image, if they are known. They can take
            the place of `masks`.
    """

    boxes: NDArray[np.float32]
    labels: NDArray[np.int64]
    scores: NDArray[np.float32]
    masks: NDArray[np.bool_] | None
    size: tuple[int, int] | None = None
    rles: Sequence[str] | None = None

    def __len__(self) -> int:
        return len(self.scores)

    @property
    def areas(self) -> list[float]:
        """The area in pixels of each mask, or of each box from a detector without masks, (n,)."""
        segmentations = self.segmentations()
        if segmentations is not None:
            return [float(mask_area(segmentation)) for segmentation in segmentations]
        return (self.boxes[:, 2:] - self.boxes[:, :2]).prod(1).tolist()

    def whole_masks(self) -> Iterator[NDArray[np.bool_]]:
        """Yield the masks in the size of the image (H, W), one at a time: all of them may not fit in memory."""
        for mask in () if self.masks is None else self.masks:
            if self.size is None or mask.shape == self.size:
                yield mask
            else:
                yield np.asarray(Image.fromarray(mask).resize(self.size[::-1], Image.Resampling.NEAREST))

    def segmentations(self) -> list[dict[str, Any]] | None:
        """Return the compressed RLE of each mask in the size of the image; None from a detector without masks."""
        if self.rles is not None:
            assert self.size is not None
            return [{"size": list(self.size), "counts": counts} for counts in self.rles]
        return None if self.masks is None else [encode_mask(mask) for mask in self.whole_masks()]

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
        for result, segmentation in zip(results, self.segmentations() or (), strict=False):
            result["segmentation"] = segmentation
        return results

    def annotations(self, image_id: int, category_ids: Sequence[int] | None = None) -> list[dict[str, Any]]:
        """Return the detections as annotations of a COCO JSON with scores and without ids; see `coco`."""
        results = zip(self.coco(image_id, category_ids), self.areas, strict=True)
        return [{**result, "area": area, "iscrowd": 0} for result, area in results]

    def above(self, score: float) -> "Detections":
        """Return the detections whose score is at least `score`."""
        kept = self.scores >= score
        masks = None if self.masks is None else self.masks[kept]
        rles = None if self.rles is None else [rle for rle, keep in zip(self.rles, kept, strict=True) if keep]
        return Detections(self.boxes[kept], self.labels[kept], self.scores[kept], masks, self.size, rles)

    @classmethod
    def from_row(cls, row: Mapping[str, Any]) -> "Detections":
        """Return the detections in a stored row of results; see `DetectionPredictor`."""
        boxes = np.array(row["boxes"], np.float32).reshape(-1, 4)
        labels, scores = np.array(row["classes"], np.int64), np.array(row["scores"], np.float32)
        return cls(boxes, labels, scores, None, (row["height"], row["width"]), row.get("masks"))


class DetectionPredictor:
    """Detect objects in images of any size.

    A predictor is also an output of `glmix.inference.run`. Its rows have the columns `classes` (labels, from 1),
    `labels` (names), `scores`, `boxes` (x1, y1, x2, y2 in pixels of the image) and, from a detector with masks, `masks`
    (the counts of compressed RLE in the size of the image), with the highest score first. `found`, the `Detections`,
    and `image`, the pixels (3, h, w) that the detector received, are not stored.

    Args:
        network: a detector with the interface of torchvision's detectors. It is copied: its mode, device and
            thresholds do not change, and further training of it does not change the predictor.
        class_names: the names of the labels 1, 2, ...
        category_ids: the category ids of the labels in COCO results; None uses the labels themselves.
        score: the score threshold of the returned detections; None uses the detector's own threshold, with which
            average precision is computed.
        device: the device of the computation.
        max_input_pixels: maximum number of pixels of one forward pass, of one or several images, because the detector
            makes every mask in the size of its input image. Larger images are scaled down to this number of pixels.
            None has no limit.
        max_pixels: maximum number of pixels of an image that `glmix.inference` reads.
    """

    any_size = True

    def __init__(
        self,
        network: nn.Module,
        class_names: Sequence[str],
        category_ids: Sequence[int] | None = None,
        score: float | None = 0.5,
        device: str | torch.device = "cpu",
        max_input_pixels: int | None = None,
        max_pixels: int = 64_000_000,
    ) -> None:
        if score is not None and not 0 <= score <= 1:
            raise InputError(f"score must be from 0 to 1, got {score}.")
        self.network = self.model = copy.deepcopy(network).to(device).eval()
        thresholded: Any = getattr(self.network, "roi_heads", self.network)
        if score is None:
            score = float(thresholded.score_thresh)
        # the detector drops detections below the threshold itself, before it computes their full-size masks
        thresholded.score_thresh = score
        self.has_masks = hasattr(network, "roi_heads") and thresholded.has_mask()
        self.class_names = tuple(class_names)
        self.category_ids = list(category_ids or range(1, len(self.class_names) + 1))
        self.score, self.device, self.max_input_pixels = score, device, max_input_pixels
        self.read: Any = ImageReader(max_pixels)
        self.options: dict[str, Any] = {
            "output": "detections",
            "score": score,
            "max_input_pixels": max_input_pixels,
            "max_pixels": max_pixels,
        }
        self.columns = {
            "classes": "list<int32>",
            "labels": "list<string>",
            "scores": "list<float32>",
            "boxes": "list<float32[4]>",
            **({"masks": "list<string>"} if self.has_masks else {}),
        }

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
        return self.predict_batch([pil_to_tensor(as_image(image))])[0]

    def predict_batch(self, images: Sequence[Tensor]) -> list[Detections]:
        """Detect the objects in images; those of similar shapes share forward passes.

        Args:
            images: pixels (3, H, W) of type uint8, of any sizes.
        """
        return self._detect([self._scaled_down(image) for image in images], [image.shape[1:] for image in images])

    def to(self, device: str) -> None:
        """Move the computation to another device, such as `cuda`."""
        self.device = device
        self.model.to(device)

    def compute(self, images: Sequence[Tensor]) -> list[dict[str, Any]]:
        """Return a row of results for each image; see `glmix.inference.Output`."""
        scaled = [self._scaled_down(image) for image in images]
        rows = []
        for image, found in zip(scaled, self._detect(scaled, [image.shape[1:] for image in images]), strict=True):
            row: dict[str, Any] = {
                "input_width": image.shape[2],
                "input_height": image.shape[1],
                "classes": found.labels.tolist(),
                "labels": [self.class_names[label - 1] for label in found.labels],
                "scores": found.scores.tolist(),
                "boxes": found.boxes.tolist(),
                "found": found,
                "image": image,
            }
            segmentations = found.segmentations()
            if segmentations is not None:
                row["masks"] = [segmentation["counts"] for segmentation in segmentations]
            rows.append(row)
        return rows

    @torch.inference_mode()
    def _detect(self, images: Sequence[Tensor], sizes: Sequence[Sequence[int]]) -> list[Detections]:
        """Detect objects in scaled images (3, h, w) of which the sizes (H, W) were others."""
        found: dict[int, Detections] = {}
        for places in self._passes([(image.shape[1], image.shape[2]) for image in images]):
            predictions: Sequence[Mapping[str, Tensor]] = self.network([images[k].to(self.device) for k in places])
            for place, prediction in zip(places, predictions, strict=True):
                kept = prediction["scores"] >= self.score
                masks = (prediction["masks"][kept, 0] >= 0.5).cpu().numpy() if "masks" in prediction else None
                boxes, labels, scores = (prediction[name][kept].cpu().numpy() for name in ("boxes", "labels", "scores"))
                height, width = sizes[place]
                scale = width / images[place].shape[2], height / images[place].shape[1]
                boxes = boxes * np.array(scale * 2, boxes.dtype)
                found[place] = Detections(boxes, labels, scores, masks, (height, width))
        return [found[place] for place in range(len(images))]

    def _scaled_down(self, image: Tensor) -> Tensor:
        """Return an image with at most `max_input_pixels`."""
        height, width = image.shape[1:]
        if self.max_input_pixels is None or height * width <= self.max_input_pixels:
            return image
        factor = (self.max_input_pixels / (height * width)) ** 0.5
        return pil_to_tensor(to_pil_image(image).resize((max(1, int(width * factor)), max(1, int(height * factor)))))

    def _passes(self, sizes: Sequence[tuple[int, int]]) -> Iterator[list[int]]:
        """Divide images of sizes (H, W) into forward passes of similar shapes, and yield their places."""
        transform: Any = self.network.transform
        # without DetectorTransform, the padding of a batch changes the detections
        padding = MAX_PADDING if isinstance(transform, DetectorTransform) else 1.0
        inputs = [shortest_edge(height, width, transform.min_size[-1], transform.max_size) for height, width in sizes]
        chosen: list[int] = []
        for place in sorted(range(len(sizes)), key=lambda k: (inputs[k][0] / inputs[k][1], k)):
            more = [*chosen, place]
            padded = len(more) * max(inputs[k][0] for k in more) * max(inputs[k][1] for k in more)
            too_many = self.max_input_pixels is not None and (
                sum(sizes[k][0] * sizes[k][1] for k in more) > self.max_input_pixels
            )
            if chosen and (too_many or padded > padding * sum(inputs[k][0] * inputs[k][1] for k in more)):
                yield chosen
                more = [place]
            chosen = more
        if chosen:
            yield chosen


def overlay(
    image: Image.Image, detections: Detections, class_names: Sequence[str], strength: float = 0.45
) -> Image.Image:
    """Draw the detections of an image: see `glmix.drawing.draw_detections`."""
    return draw_detections(
        image, detections.boxes, detections.labels, detections.scores, detections.masks, class_names, strength
    )
