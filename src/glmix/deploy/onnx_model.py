"""Run an ONNX file of `glmix export` on images, with onnxruntime, NumPy and Pillow and without PyTorch.

This file imports nothing of glmix: copy it to the machine that runs the model (`glmix export --runner` writes a copy
beside the model).

    from onnx_model import OnnxModel

    model = OnnxModel("model.onnx")
    print(model("photo.jpg"))

Shapes: an H x W image, K classes, n detections.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime  # type: ignore[import-untyped]
from numpy.typing import NDArray
from PIL import Image, ImageOps

__all__ = ["OnnxModel", "paste_mask", "resize_scores"]

Array = NDArray[Any]


class OnnxModel:
    """An exported model. Several threads may use it at the same time.

    Args:
        path: a .onnx file of `glmix export`.
        threads: number of CPU threads per call; None for the default of onnxruntime.
        providers: execution providers of onnxruntime.
    """

    def __init__(
        self, path: str | Path, threads: int | None = None, providers: tuple[str, ...] = ("CPUExecutionProvider",)
    ) -> None:
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3  # no warning about the default value of the input `score`
        if threads is not None:
            options.intra_op_num_threads = threads
        self.session = onnxruntime.InferenceSession(str(path), options, providers=list(providers))
        metadata: dict[str, str] = self.session.get_modelmeta().custom_metadata_map
        self.about: dict[str, Any] = {key: _value(text) for key, text in metadata.items()}
        self.names: list[str] = [output.name for output in self.session.get_outputs()]

    def run(self, images: Array, **inputs: Any) -> dict[str, Array]:
        """Return the outputs of the graph by name.

        Args:
            images: images in the format that `about["preprocess"]` names.
            inputs: further inputs of the graph: `score`, the minimum score of a detection.
        """
        feed = {"image": np.ascontiguousarray(images)}
        feed |= {name: np.asarray(value, np.float32) for name, value in inputs.items() if value is not None}
        return dict(zip(self.names, self.session.run(self.names, feed), strict=True))

    def __call__(self, image: str | Path | Image.Image | Array, score: float | None = None) -> dict[str, Array]:
        """Preprocess an image, run the model and return its predictions.

        Args:
            image: a file, a Pillow image, or pixels (H, W, 3) of type uint8.
            score: the minimum score of a detection; None for the threshold of the detector.

        Returns:
            Classification: `probabilities` (K,). Segmentation: `labels` (H, W), the class of each pixel. Detection:
            `boxes` (n, 4) as x1 y1 x2 y2 in pixels, `labels` (n,) from 1, `scores` (n,) and, with Mask R-CNN, `masks`
            (n, H, W). The names of the classes are in `about["class_names"]`.

        Raises:
            ValueError: the file returns feature maps or slots, or needs other channels or another crop than this class
                supports.
        """
        if self.about["outputs"] != "classes":
            raise ValueError(f"This file returns {self.about['outputs']}: preprocess the image and call `run`.")
        picture = self._open(image)
        task = self.about["task"]
        if task == "classification":
            (logits,) = self.run(self._to_input(self._crop(picture))).values()
            return {"probabilities": _probabilities(logits[0], self.about["multi_label"])}
        if task == "segmentation":
            scores = self.run(self._to_input(self._fit(picture)))["logits"][0]
            return {"labels": resize_scores(scores, (picture.height, picture.width)).argmax(0).astype(np.uint8)}
        found = self.run(self._to_input(picture), score=score)
        if "masks" in found:
            size = (picture.height, picture.width)
            pasted = [paste_mask(m, box, size) for m, box in zip(found["masks"], found["boxes"], strict=True)]
            found["masks"] = np.stack(pasted) if pasted else np.zeros((0, *size), bool)
        return found

    def _open(self, image: str | Path | Image.Image | Array) -> Image.Image:
        """Return an upright image in the mode that the model needs."""
        channels = self.about["input_size"][0]
        if channels not in (1, 3):
            raise ValueError(f"This file takes images of {channels} channels: preprocess the image and call `run`.")
        if isinstance(image, str | Path):
            image = Image.open(image)
        elif isinstance(image, np.ndarray):
            image = Image.fromarray(image)
        return ImageOps.exif_transpose(image).convert("L" if channels == 1 else "RGB")

    def _crop(self, image: Image.Image) -> Image.Image:
        """Return the resized centre crop of the model's evaluation transform."""
        _, height, width = self.about["input_size"]
        if height != width or self.about["crop_mode"] != "center":
            raise ValueError(
                f"This file needs a crop of {width} x {height} with crop_mode {self.about['crop_mode']}, and only "
                "square centre crops are implemented here: preprocess the image and call `run`."
            )
        shorter = int(height / self.about["crop_pct"])
        scaled = [int(shorter * side / min(image.size)) for side in image.size]
        image = image.resize((scaled[0], scaled[1]), Image.Resampling[self.about["interpolation"].upper()])
        left, top = round((image.width - width) / 2), round((image.height - height) / 2)
        return image.crop((left, top, left + width, top + height))

    def _fit(self, image: Image.Image) -> Image.Image:
        """Return an image that is resized to fit the box `resize`, (longer, shorter) side, if the model has one."""
        box = self.about.get("resize")
        if box is None:
            return image
        scale = min(box[0] / max(image.size), box[1] / min(image.size))
        width, height = (max(1, int(side * scale + 0.5)) for side in image.size)
        return image.resize((width, height), Image.Resampling.BILINEAR)

    def _to_input(self, image: Image.Image) -> Array:
        """Return an image as a batch of one in the format of the graph's input."""
        pixels = np.asarray(image).reshape(1, image.height, image.width, -1)
        if self.about["preprocess"] == "uint8":
            return pixels
        scaled = pixels.transpose(0, 3, 1, 2).astype(np.float32) / np.float32(255)
        if self.about["preprocess"] == "float":
            return scaled
        mean, std = (np.array(self.about[name], np.float32).reshape(1, -1, 1, 1) for name in ("mean", "std"))
        return (scaled - mean) / std


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text


def _probabilities(logits: Array, multi_label: bool) -> Array:
    if multi_label:
        return 1 / (1 + np.exp(-logits))
    exponentials = np.exp(logits - logits.max())
    return exponentials / exponentials.sum()


def _linear_weights(size: int, new: int) -> Array:
    """Return the matrix (new, size) of linear interpolation between the centres of `size` pixels."""
    position = np.clip((np.arange(new) + 0.5) * (size / new) - 0.5, 0, size - 1)
    return np.maximum(1 - np.abs(position[:, None] - np.arange(size)), 0).astype(np.float32)


def resize_scores(scores: Array, size: tuple[int, int]) -> Array:
    """Resize scores (K, h, w) bilinearly to a size (H, W)."""
    for axis in (1, 2):
        old, new = scores.shape[axis], size[axis - 1]
        if old == new:
            continue
        position = np.clip((np.arange(new, dtype=np.float32) + 0.5) * (old / new) - 0.5, 0, old - 1)
        low = position.astype(np.int64)
        fraction = (position - low).astype(np.float32).reshape([-1 if k == axis else 1 for k in range(3)])
        first, second = scores.take(low, axis), scores.take(np.minimum(low + 1, old - 1), axis)
        scores = first + fraction * (second - first)
    return scores


def paste_mask(mask: Array, box: Array, size: tuple[int, int], threshold: float = 0.5) -> NDArray[np.bool_]:
    """Return the mask of a detection in its image, as torchvision computes it.

    Args:
        mask: probabilities (M, M) in the box.
        box: x1 y1 x2 y2 in pixels.
        size: (H, W) of the image.
        threshold: the minimum probability of a pixel of the object.

    Returns:
        (H, W), boolean.
    """
    padded = np.pad(mask, 1)
    centre, half = (box[:2] + box[2:]) * np.float32(0.5), (box[2:] - box[:2]) * np.float32(0.5)
    half = half * np.float32(len(padded) / len(mask))
    left, top = (centre - half).astype(np.int64)
    right, bottom = (centre + half).astype(np.int64)
    (y0, y1), (x0, x1) = (
        (max(low, 0), min(high + 1, side)) for low, high, side in ((top, bottom, size[0]), (left, right, size[1]))
    )
    rows = _linear_weights(len(padded), max(bottom - top + 1, 1))[y0 - top : y1 - top]
    cols = _linear_weights(len(padded), max(right - left + 1, 1))[x0 - left : x1 - left]
    pasted = np.zeros(size, bool)
    pasted[y0:y1, x0:x1] = rows @ padded @ cols.T >= threshold
    return pasted
