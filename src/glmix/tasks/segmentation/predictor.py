"""A trained segmentation network as a predictor for images of any size, alone or with `glmix.inference`."""

import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn
from torchvision.transforms.v2 import functional as V

from ...data.core.image_files import ImageReader, as_image
from ...data.core.windows import ImageWindows, write_label_map
from ...data.segmentation.transforms import fitted_size
from ...drawing import draw_segmentation as overlay
from ...drawing import label_colours, palette_image
from ...errors import InputError
from ...files import temporary_path
from ...weights import load
from .inference import WHOLE, Inference, label_map, segment, sliding_window_labels, sliding_window_rows

__all__ = ["LabelMap", "SegmentationPredictor", "overlay", "palette_image"]

Labels = NDArray[np.uint8]

MAX_WINDOWS = 16  # sliding windows in one forward pass


@dataclass(frozen=True, eq=False)
class LabelMap:
    """The class of each pixel of an image.

    Args:
        labels: class indices (H, W).
        class_names: the names of the K classes.
        in_windows: whether the image was segmented in sliding windows.
    """

    labels: Labels
    class_names: tuple[str, ...]
    in_windows: bool = False

    def classes(self) -> list[dict[str, Any]]:
        """Return id, name, number of pixels and share of the pixels of each class in the image, the largest first."""
        return _classes(Image.fromarray(self.labels).histogram(), self.class_names)

    def mask(self) -> Image.Image:
        """Return an image of class indices with a colour palette; see `glmix.drawing.palette_image`."""
        return palette_image(self.labels, self.class_names)

    def overlay(self, image: Image.Image, strength: float = 0.5) -> Image.Image:
        """Draw the classes on the image; see `glmix.drawing.draw_segmentation`."""
        return overlay(image, self.labels, self.class_names, strength)


def _classes(counts: Sequence[int], class_names: Sequence[str]) -> list[dict[str, Any]]:
    """Return the classes of a label map with these numbers of pixels; see `LabelMap.classes`."""
    order = sorted((k for k, count in enumerate(counts) if count), key=lambda k: -counts[k])
    total = sum(counts)
    return [{"id": k, "name": class_names[k], "pixels": counts[k], "share": round(counts[k] / total, 6)} for k in order]


def _columns(classes: Sequence[dict[str, Any]], in_windows: bool) -> dict[str, Any]:
    """Return the columns of a row of results."""
    names = {"classes": "id", "labels": "name", "pixels": "pixels", "shares": "share"}
    return {
        "mode": "slide" if in_windows else "whole",
        **{column: [one[name] for one in classes] for column, name in names.items()},
    }


class SegmentationPredictor:
    """Predict the label map of images of any size.

    A predictor is also an output of `glmix.inference.run`. Its rows have the columns `mode` (`whole` or `slide`) and,
    with one entry per class in the image, the largest class first, `classes` (indices), `labels` (names), `pixels` and
    `shares` of the pixels. `found`, the `LabelMap`, and `image`, the pixels (3, H, W), are not stored.

    Args:
        network: maps images (B, 3, H, W) to per-class scores (B, K, H, W).
        class_names: the names of the K classes.
        mean, std: channel statistics for normalisation, for pixel values from 0 to 1.
        resize: (longer, shorter) side of a box that images are scaled to fit before inference; None keeps their size.
        inference: inference settings: whole images or a sliding window, and test-time augmentation.
        device: the device of the computation.
        max_input_pixels: maximum number of pixels of one forward pass, of one or several images. An image is segmented
            in sliding windows if the network's input would have more pixels than this at the largest scale. The memory
            then does not grow with the number of classes times the number of pixels. Every window is segmented at all
            scales. None has no limit.
        max_pixels: maximum number of pixels of an image that `glmix.inference` reads.
        scratch: a folder for the masks of images that are read in windows: `.npy` and TIFF files with more than
            `max_input_pixels`, if images are not resized. Their rows have `mask_file`, a TIFF file in this folder, in
            place of `found` and `image`. None reads only whole images.
    """

    any_size = True

    def __init__(
        self,
        network: nn.Module,
        class_names: Sequence[str],
        mean: Sequence[float],
        std: Sequence[float],
        resize: tuple[int, int] | None = None,
        inference: Inference = WHOLE,
        device: str | torch.device = "cpu",
        max_input_pixels: int | None = None,
        max_pixels: int = 64_000_000,
        scratch: Path | None = None,
    ) -> None:
        self.network = self.model = network.to(device).eval()
        self.class_names = tuple(class_names)
        self.max_input_pixels = max_input_pixels
        self.mean, self.std = list(mean), list(std)
        self.resize, self.inference, self.device = resize, inference, device
        self.scratch = scratch
        self.read = ImageReader(max_pixels, None if scratch is None or resize is not None else max_input_pixels)
        self.columns = {
            "mode": "string",
            "classes": "list<int32>",
            "labels": "list<string>",
            "pixels": "list<int64>",
            "shares": "list<float64>",
        }
        self.options: dict[str, Any] = {
            "output": "segmentation",
            "mean": self.mean,
            "std": self.std,
            "resize": resize,
            "inference": asdict(inference),
            "max_input_pixels": max_input_pixels,
            "max_pixels": max_pixels,
        }

    @classmethod
    def from_checkpoint(cls, path: str | Path, **options: Any) -> "SegmentationPredictor":
        """Load a predictor from a `.ckpt` of `glmix fit` on a segmentation task, or a folder of `glmix convert`.

        Args:
            path: the checkpoint or the folder.
            options: arguments of the constructor, which replace those stored in the checkpoint.

        Raises:
            InputError: the checkpoint is of another task, or has no normalisation statistics.
        """
        loaded = load(path)
        info = loaded.info
        if loaded.task != "Segmentation":
            raise InputError(f"{path} contains a network for {loaded.task or 'classification'}, not for segmentation.")
        if info["mean"] is None or info["std"] is None:
            raise InputError(f"{path} does not contain the mean and std for normalising images.")
        names = info["class_names"] or [f"class {k}" for k in range(info["num_classes"])]
        stored = {"class_names": names, "mean": info["mean"], "std": info["std"], "resize": info.get("resize")}
        return cls(loaded.network, **{**stored, **options})

    def _windows_per_pass(self) -> int:
        return min(MAX_WINDOWS, max(1, self._images_per_pass((self.inference.window, self.inference.window))))

    def _segment_windows(self, windows: Tensor) -> Tensor:
        """Return the scores (N, K, h, w) of windows (N, 3, h, w) of type uint8."""
        return segment(self.network, self._normalise(windows), replace(self.inference, mode="whole"))

    def _images_per_pass(self, size: tuple[int, int]) -> int:
        """Return how many inputs of a size (H, W) fit into `max_input_pixels`."""
        if self.max_input_pixels is None:
            return sys.maxsize
        return int(self.max_input_pixels // (size[0] * size[1] * max(self.inference.scales) ** 2))

    def __call__(self, image: str | os.PathLike[str] | Image.Image | NDArray[np.uint8]) -> LabelMap:
        """Segment an image.

        Args:
            image: a file, a Pillow image, or pixels (H, W, 3) of type uint8.

        Returns:
            The class of each pixel of the upright image.

        Raises:
            FileNotFoundError: there is no such file.
            InputError: the file is not an image, or the array has another shape or type.
        """
        return self.predict_batch([V.pil_to_tensor(as_image(image))])[0]

    @torch.inference_mode()
    def predict_batch(self, images: Sequence[Tensor]) -> list[LabelMap]:
        """Segment images. Images whose inputs have equal sizes share forward passes.

        Args:
            images: pixels (3, H, W) of type uint8, of any sizes.
        """
        places: dict[tuple[int, int], list[int]] = {}
        for place, image in enumerate(images):
            places.setdefault(fitted_size((image.shape[1], image.shape[2]), self.resize), []).append(place)
        found: dict[int, LabelMap] = {}
        for size, group in places.items():
            step = self._images_per_pass(size)
            for start in range(0, len(group), max(1, step)):
                chosen = group[start : start + max(1, step)]
                labels = self._labels([images[place] for place in chosen], size, in_windows=step == 0)
                found |= zip(chosen, labels, strict=True)
        return [found[place] for place in range(len(images))]

    def _labels(self, images: Sequence[Tensor], size: tuple[int, int], in_windows: bool) -> list[LabelMap]:
        """Segment images whose inputs have one size (H, W)."""
        resized = [V.resize(image.to(self.device), list(size), antialias=True) for image in images]
        x = torch.stack(resized)
        if in_windows:
            window_labels = sliding_window_labels(self._segment_windows, x, self.inference, self._windows_per_pass())
            maps = [V.resize(window_labels, list(image.shape[1:]), V.InterpolationMode.NEAREST) for image in images]
        else:
            scores = segment(self.network, self._normalise(x), self.inference)
            sizes = [(int(image.shape[1]), int(image.shape[2])) for image in images]
            maps = [label_map(one, original) for one, original in zip(scores.split(1), sizes, strict=True)]
        windows = in_windows or self.inference.mode == "slide"
        return [LabelMap(labels[0].to(torch.uint8).cpu().numpy(), self.class_names, windows) for labels in maps]

    def to(self, device: str) -> None:
        """Move the computation to another device, such as `cuda`."""
        self.device = device
        self.model.to(device)

    @torch.inference_mode()
    def segment_file(self, image: ImageWindows, mask: Path) -> list[dict[str, Any]]:
        """Segment an image file in sliding windows that are read from the file, and write its mask from top to bottom.

        No array has the size of the image: see `sliding_window_rows` for the memory.

        Args:
            image: see `glmix.data.core.windows.open_windows`.
            mask: TIFF file to write: class indices with a palette, and the position of a GeoTIFF.

        Returns:
            The classes as in `LabelMap.classes`.
        """
        _, height, width = image.shape
        counts = np.zeros(len(self.class_names), np.int64)

        def read(*window: int) -> Tensor:
            return image.read(*window).unsqueeze(0).to(self.device)

        def rows() -> Iterator[Labels]:
            inference, per_pass = self.inference, self._windows_per_pass()
            for labels in sliding_window_rows(self._segment_windows, read, (height, width), inference, per_pass):
                found: Labels = labels[0].cpu().numpy()
                counts[:] += np.bincount(found.ravel(), minlength=len(counts))
                yield found

        write_label_map(mask, rows(), (height, width), label_colours(self.class_names), image.geo_tags())
        return _classes(counts.tolist(), self.class_names)

    def compute(self, images: Sequence[Tensor | ImageWindows]) -> list[dict[str, Any]]:
        """Return a row of results for each image; see `glmix.inference.Output`."""
        whole = [image for image in images if isinstance(image, Tensor)]
        maps = iter(self.predict_batch(whole))
        rows = []
        for image in images:
            if not isinstance(image, Tensor):
                rows.append(self._row_of_file(image))
                continue
            found = next(maps)
            classes = found.classes()
            height, width = fitted_size((image.shape[1], image.shape[2]), self.resize)
            row = {"input_width": width, "input_height": height, "found": found, "image": image}
            rows.append({**row, **_columns(classes, found.in_windows)})
        return rows

    def _row_of_file(self, image: ImageWindows) -> dict[str, Any]:
        assert self.scratch is not None
        self.scratch.mkdir(parents=True, exist_ok=True)
        file = temporary_path(self.scratch / f"{image.path}.tif".replace(os.sep, "_"))
        try:
            classes = self.segment_file(image, file)
        except BaseException:
            file.unlink(missing_ok=True)
            raise
        return {"mask_file": file, **_columns(classes, in_windows=True)}

    def _normalise(self, x: Tensor) -> Tensor:
        """Convert uint8 images (B, 3, H, W) to normalised float32."""
        normalised: Tensor = V.normalize(V.to_dtype(x, torch.float32, scale=True), self.mean, self.std)
        return normalised
