"""A trained segmentation network as a predictor for images of any size."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn
from torchvision.transforms.v2 import functional as V

from ...data.segmentation.transforms import fitted_size
from ...drawing import draw_segmentation as overlay
from ...drawing import palette_image
from ...errors import InputError
from ...weights import load
from .inference import WHOLE, Inference, label_map, segment, sliding_window_labels

__all__ = ["SegmentationPredictor", "overlay", "palette_image"]

Labels = NDArray[np.uint8]


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
        """Load a predictor from a `.ckpt` of `glmix fit` on a segmentation task.

        Args:
            path: the checkpoint.
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
    def __call__(self, image: Image.Image) -> Labels:
        """Return the class index of each pixel, (H, W) uint8."""
        x = V.pil_to_tensor(image.convert("RGB")).to(self.device)
        height, width = int(x.shape[1]), int(x.shape[2])
        x = V.resize(x, list(fitted_size((height, width), self.resize)), antialias=True).unsqueeze(0)
        if self.is_too_large(image):
            how = replace(self.how, mode="whole")
            window_labels = sliding_window_labels(
                lambda window: segment(self.network, self._normalise(window), how), x, how.window, how.stride
            )
            labels = V.resize(window_labels, [height, width], V.InterpolationMode.NEAREST)
        else:
            labels = label_map(segment(self.network, self._normalise(x), self.how), (height, width))
        result: Labels = labels[0].to(torch.uint8).cpu().numpy()
        return result

    def _normalise(self, x: Tensor) -> Tensor:
        """Convert uint8 images (B, 3, H, W) to normalised float32."""
        normalised: Tensor = V.normalize(V.to_dtype(x, torch.float32, scale=True), self.mean, self.std)
        return normalised
