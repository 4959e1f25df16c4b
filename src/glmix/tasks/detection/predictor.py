"""A trained detector as a predictor for images of any size, alone or with `glmix.inference`."""

import copy
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn
from torchvision.transforms.v2.functional import pil_to_tensor, to_pil_image

from ...data.core.image_files import ImageReader, as_image
from ...data.core.windows import ImageWindows
from ...data.detection.transforms import shortest_edge
from ...drawing import draw_detections
from ...errors import InputError
from ...weights import load
from .detections import Detections
from .padding import DetectorTransform
from .tiles import Tiles, merge_detections, rles_in_image

__all__ = ["Detections", "DetectionPredictor", "overlay"]

MAX_TILES = 16  # maximum number of tiles that are read at once
MAX_PADDING = 1.3  # maximum ratio of the pixels of a padded batch to those of its images


class DetectionPredictor:
    """Detect objects in images of any size.

    A predictor is also an output of `glmix.inference.run`. Its rows have the columns `mode` (`whole` or `tiles`),
    `classes` (labels, from 1), `labels` (names), `scores`, `boxes` (x1, y1, x2, y2 in pixels of the image) and, from a
    detector with masks, `masks` (the counts of compressed RLE in the size of the image), with the highest score first.
    `found`, the `Detections`, and `image`, the pixels (3, h, w) that the detector received, are not stored.

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
        tiles: detect objects in larger images with overlapping tiles instead of scaling the images down. `.npy` and
            TIFF files with more than `max_input_pixels` are then read in tiles, with any number of pixels.
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
        tiles: Tiles | None = None,
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
        self.tiles, self._nms = tiles, float(thresholded.nms_thresh)
        self.read: Any = ImageReader(max_pixels, None if tiles is None else max_input_pixels)
        self.options: dict[str, Any] = {
            "output": "detections",
            "score": score,
            "max_input_pixels": max_input_pixels,
            "max_pixels": max_pixels,
            "tiles": None if tiles is None else asdict(tiles),
        }
        self.columns = {
            "mode": "string",
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
            raise InputError(f"{path} contains a network for {loaded.task or 'classification'}, not for detection.")
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

    def predict_batch(self, images: Sequence[Tensor | ImageWindows]) -> list[Detections]:
        """Detect the objects in images. Images of similar shapes share forward passes.

        Args:
            images: pixels (3, H, W) of type uint8, of any sizes, or files to read in tiles.
        """
        whole = [image for image in images if isinstance(image, Tensor) and not self._needs_tiles(image)]
        found = iter(self._detect(whole))
        return [self._in_tiles(image) if self._needs_tiles(image) else next(found) for image in images]

    def to(self, device: str) -> None:
        """Move the computation to another device, such as `cuda`."""
        self.device = device
        self.model.to(device)

    def compute(self, images: Sequence[Tensor | ImageWindows]) -> list[dict[str, Any]]:
        """Return a row of results for each image; see `glmix.inference.Output`."""
        rows = []
        for image, found in zip(images, self.predict_batch(images), strict=True):
            in_tiles = self._needs_tiles(image)
            seen = image if in_tiles else self._scaled_down(image)
            row: dict[str, Any] = {
                "input_width": seen.shape[2],
                "input_height": seen.shape[1],
                "mode": "tiles" if in_tiles else "whole",
                "classes": found.labels.tolist(),
                "labels": [self.class_names[label - 1] for label in found.labels],
                "scores": found.scores.tolist(),
                "boxes": found.boxes.tolist(),
                "found": found,
                "image": seen,
            }
            segmentations = found.segmentations()
            if segmentations is not None:
                row["masks"] = [segmentation["counts"] for segmentation in segmentations]
            rows.append(row)
        return rows

    def _needs_tiles(self, image: Tensor | ImageWindows) -> bool:
        return self.tiles is not None and max(image.shape[1:]) > self.tiles.side

    def _in_tiles(self, image: Tensor | ImageWindows) -> Detections:
        """Detect objects in an image by tiles; see `Tiles`."""
        assert self.tiles is not None
        size = (int(image.shape[1]), int(image.shape[2]))
        tiles, parts = list(self.tiles.of(*size)), []
        step = max(1, min(MAX_TILES, (self.max_input_pixels or sys.maxsize) // self.tiles.side**2))
        for start in range(0, len(tiles), step):
            chosen = tiles[start : start + step]
            for tile, found in zip(chosen, self._detect([tile.pixels(image) for tile in chosen]), strict=True):
                boxes = found.boxes + np.array([tile.left, tile.top] * 2, np.float32)
                kept = self.tiles.kept_detections(boxes, tile, size)
                found = found.select(kept)
                rles = rles_in_image(found, tile, size) if self.has_masks else None
                parts.append(Detections(boxes[kept], found.labels, found.scores, None, size, rles))
        return merge_detections(parts, size, self._nms)

    @torch.inference_mode()
    def _detect(self, originals: Sequence[Tensor]) -> list[Detections]:
        """Detect objects in images, scaled down to at most `max_input_pixels`."""
        images = [self._scaled_down(image) for image in originals]
        found: dict[int, Detections] = {}
        for places in self._passes([(image.shape[1], image.shape[2]) for image in images]):
            predictions: Sequence[Mapping[str, Tensor]] = self.network([images[k].to(self.device) for k in places])
            for place, prediction in zip(places, predictions, strict=True):
                kept = prediction["scores"] >= self.score
                masks = (prediction["masks"][kept, 0] >= 0.5).cpu().numpy() if "masks" in prediction else None
                boxes, labels, scores = (prediction[name][kept].cpu().numpy() for name in ("boxes", "labels", "scores"))
                height, width = originals[place].shape[1:]
                scale = width / images[place].shape[2], height / images[place].shape[1]
                boxes = boxes * np.array(scale * 2, boxes.dtype)
                found[place] = Detections(boxes, labels, scores, masks, (height, width))
        return [found[place] for place in range(len(images))]

    def _scaled_down(self, image: Any) -> Tensor:
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
