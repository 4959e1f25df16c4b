"""A trained segmentation network as a predictor for images of any size."""

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn
from torchvision.transforms.v2 import functional as V

from ...data.core.image_files import as_image
from ...data.segmentation.transforms import fitted_size
from ...drawing import draw_segmentation as overlay
from ...drawing import palette_image
from ...errors import InputError
from ...weights import load
from .inference import WHOLE, Inference, label_map, segment, sliding_window_labels

__all__ = ["LabelMap", "SegmentationPredictor", "overlay", "palette_image"]

Labels = NDArray[np.uint8]


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
        counts = Image.fromarray(self.labels).histogram()
        order = sorted((k for k, count in enumerate(counts) if count), key=lambda k: -counts[k])
        total = self.labels.size
        return [
            {"id": k, "name": self.class_names[k], "pixels": counts[k], "share": round(counts[k] / total, 6)}
            for k in order
        ]

    def mask(self) -> Image.Image:
        """Return an image of class indices with a colour palette; see `glmix.drawing.palette_image`."""
        return palette_image(self.labels, self.class_names)

    def overlay(self, image: Image.Image, strength: float = 0.5) -> Image.Image:
        """Draw the classes on the image; see `glmix.drawing.draw_segmentation`."""
        return overlay(image, self.labels, self.class_names, strength)


class SegmentationPredictor:
    """Predict the label map of images of any size.

    Args:
        network: maps images (B, 3, H, W) to per-class scores (B, K, H, W).
        class_names: the names of the K classes.
        mean, std: channel statistics for normalisation, for pixel values from 0 to 1.
        resize: (longer, shorter) side of a box that images are scaled to fit before inference; None keeps their size.
        how: inference settings: whole images or a sliding window, and test-time augmentation.
        device: the device of the computation.
        max_input_pixels: segment an image in sliding windows if the network's input would have more pixels than this
            at the largest scale. The memory then does not grow with the number of classes times the number of pixels.
            Every window is segmented at all scales. None never switches to sliding windows.
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
            raise InputError(f"{path} holds a network for {loaded.task or 'classification'}, not for segmentation.")
        if info["mean"] is None or info["std"] is None:
            raise InputError(f"{path} does not contain the mean and std for normalising images.")
        names = info["class_names"] or [f"class {k}" for k in range(info["num_classes"])]
        stored = {"class_names": names, "mean": info["mean"], "std": info["std"], "resize": info.get("resize")}
        return cls(loaded.network, **{**stored, **options})

    def is_too_large(self, image: Image.Image) -> bool:
        """Return whether an image exceeds `max_input_pixels` and is segmented in sliding windows."""
        if self.max_input_pixels is None:
            return False
        height, width = fitted_size((image.height, image.width), self.resize)
        return height * width * max(self.how.scales) ** 2 > self.max_input_pixels

    @torch.inference_mode()
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
        image = as_image(image)
        x = V.pil_to_tensor(image).to(self.device)
        height, width = int(x.shape[1]), int(x.shape[2])
        x = V.resize(x, list(fitted_size((height, width), self.resize)), antialias=True).unsqueeze(0)
        too_large = self.is_too_large(image)
        if too_large:
            how = replace(self.how, mode="whole")
            window_labels = sliding_window_labels(
                lambda window: segment(self.network, self._normalise(window), how), x, how.window, how.stride
            )
            labels = V.resize(window_labels, [height, width], V.InterpolationMode.NEAREST)
        else:
            labels = label_map(segment(self.network, self._normalise(x), self.how), (height, width))
        found: Labels = labels[0].to(torch.uint8).cpu().numpy()
        return LabelMap(found, self.class_names, too_large or self.how.mode == "slide")

    def _normalise(self, x: Tensor) -> Tensor:
        """Convert uint8 images (B, 3, H, W) to normalised float32."""
        normalised: Tensor = V.normalize(V.to_dtype(x, torch.float32, scale=True), self.mean, self.std)
        return normalised
