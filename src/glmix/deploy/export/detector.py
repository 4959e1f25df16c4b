"""Detectors of torchvision as ONNX graphs: one image of any size in, its detections out.

The graph resizes the image as the detector does in evaluation, and contains the non-maximum suppression. It is made by
the TorchScript-based exporter of PyTorch: `torch.export` cannot capture torchvision's detectors, because the sizes of
their tensors depend on the number of detections.

Shapes: an H x W image, n detections, masks of M x M pixels.
"""

import copy
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torchvision.models.detection import RetinaNet
from torchvision.models.detection.generalized_rcnn import GeneralizedRCNN
from torchvision.models.detection.image_list import ImageList

from ...errors import InputError
from .check import TOLERANCE, Check, Run
from .graph import INPUT, Preprocess, backbone_of, description, pictures
from .run import require
from .write import quiet

__all__ = ["DeployedDetector", "check_detector", "is_detector", "write_detector"]

Array = NDArray[Any]

SCORE = "score"  # the name of the optional graph input with the minimum score
DIVISOR = 32  # the input of the network is padded to a multiple of it
OPSET = 17
MISSED = 0.02  # share of detections that may differ: rounding can change decisions of the non-maximum suppression


def is_detector(model: nn.Module) -> bool:
    """Return whether a model is a detector of torchvision."""
    return isinstance(model, RetinaNet | GeneralizedRCNN)


class DeployedDetector(nn.Module):
    """A copy of a detector, in float32 on the CPU, with the inputs and outputs of the exported graph.

    Args:
        model: a RetinaNet or Mask R-CNN of `glmix.tasks.detection`.
        preprocess: the input image. `float`: (1, 3, H, W) from 0 to 1. `uint8`: (1, H, W, 3) from 0 to 255.

    Raises:
        InputError: an argument is invalid.
    """

    def __init__(self, model: nn.Module, preprocess: Preprocess) -> None:
        super().__init__()
        if getattr(model, "task", None) != "detection":
            raise InputError(
                f"{type(model).__name__} cannot be exported; only detectors of `glmix fit` and `build_detector` can."
            )
        if preprocess == "none":
            raise InputError("preprocess='none' is not for detectors, whose files normalise: use 'uint8' or 'float'.")
        self.preprocess = preprocess
        network: Any = copy.deepcopy(model).cpu().float().requires_grad_(False)
        self.score = float(_thresholded(network).score_thresh)
        self.has_masks = hasattr(network, "roi_heads") and network.roi_heads.has_mask()
        self.min_side, self.max_side = network.transform.min_size[-1], network.transform.max_size
        shared = {id(tensor): tensor for tensor in (*network.parameters(), *network.buffers())}
        self.network = copy.deepcopy(network, shared)  # for the trace
        self.network.transform = _TracedTransform(network.transform)
        network.transform = _KeepMasks(network.transform)
        self._original = [network.eval()]  # in a list, so that it is not part of this module
        self.eval()
        self.names = ("boxes", "labels", "scores", *(("masks",) if self.has_masks else ()))
        self.about = description(model, backbone_of(model), "detection", "classes", preprocess)
        self.about[SCORE] = str(self.score)

    @property
    def dynamic_dims(self) -> dict[int, str]:
        """Return the dynamic dimensions of the input as {dimension: name}."""
        first = 1 if self.preprocess == "uint8" else 2
        return {first: "height", first + 1: "width"}

    def to_input(self, pixels: Tensor) -> Tensor:
        """Convert uint8 images (1, 3, H, W) to inputs of this module."""
        return pixels.permute(0, 2, 3, 1).contiguous() if self.preprocess == "uint8" else pixels.float() / 255

    def forward(self, image: Tensor, score: Tensor) -> tuple[Tensor, ...]:
        """Return boxes (n, 4), labels (n,), scores (n,) and, with Mask R-CNN, masks (n, M, M) in their boxes.

        Only for tracing.

        Args:
            image: the image, in the format of `preprocess`.
            score: the minimum score of detections, a tensor without dimensions.
        """
        if self.preprocess == "uint8":
            image = image.permute(0, 3, 1, 2).float() / 255
        _thresholded(self.network).score_thresh = score
        (found,) = self.network([image[0]])
        if self.has_masks:
            found["masks"] = found["masks"][:, 0]
        return tuple(found[name] for name in self.names)

    def expected(self, pixels: Tensor, score: float) -> dict[str, Array]:
        """Return the detections that PyTorch computes for a uint8 image (1, 3, H, W), with masks (n, M, M)."""
        (network,) = self._original
        _thresholded(network).score_thresh = score
        with torch.inference_mode():
            (found,) = network([pixels[0].float() / 255])
        if self.has_masks:
            found["masks"] = found["masks"][:, 0]
        return {name: found[name].numpy() for name in self.names}


def _thresholded(network: Any) -> Any:
    """Return the part of a detector with the score threshold."""
    return getattr(network, "roi_heads", network)


class _KeepMasks(nn.Module):
    """The transform of a detector, except that masks stay in the coordinates of their boxes."""

    def __init__(self, transform: Any) -> None:
        super().__init__()
        self.transform = transform

    def forward(self, images: list[Tensor], targets: None = None) -> Any:
        return self.transform(images, targets)

    def postprocess(self, result: list[dict[str, Tensor]], sizes: Any, original_sizes: Any) -> list[dict[str, Tensor]]:
        masks = [found.pop("masks", None) for found in result]
        scaled: list[dict[str, Tensor]] = self.transform.postprocess(result, sizes, original_sizes)
        return [{**found, **({} if m is None else {"masks": m})} for found, m in zip(scaled, masks, strict=True)]


class _TracedTransform(nn.Module):
    """The transform of a detector for a trace that holds for any image size: normalise, resize, pad.

    The image is resized by products with two matrices, whose values are those of PyTorch's bilinear interpolation with
    antialiasing. Padding is part of the matrices. A last channel is 1 on the image, as in a padded batch.
    """

    def __init__(self, transform: Any) -> None:
        super().__init__()
        self.min_side, self.max_side = transform.min_size[-1], transform.max_size
        self.mean, self.std = (
            torch.tensor(values).view(-1, 1, 1) for values in (transform.image_mean, transform.image_std)
        )

    def forward(self, images: list[Tensor], targets: None = None) -> tuple[ImageList, None]:
        (image,) = images
        sides = [_as_tensor(image.shape[dim]) for dim in (1, 2)]
        height, width = (side.double() for side in sides)
        scale = torch.minimum(
            self.min_side / torch.minimum(height, width), self.max_side / torch.maximum(height, width)
        )
        size = [(side * scale).round().clamp_min(1).long() for side in (height, width)]
        rows, cols = (_resize_matrix(side, new) for side, new in zip(sides, size, strict=True))
        resized = rows @ ((image - self.mean) / self.std) @ cols.transpose(0, 1)
        inside = (rows.sum(1) > 0.5).unsqueeze(1) & (cols.sum(1) > 0.5).unsqueeze(0)
        batch = torch.cat([resized, inside.to(resized).unsqueeze(0)]).unsqueeze(0)
        return ImageList(batch, [(size[0], size[1])]), None

    def postprocess(self, result: list[dict[str, Tensor]], sizes: Any, original_sizes: Any) -> list[dict[str, Tensor]]:
        ratios = [
            _as_tensor(original).float() / new.float()
            for new, original in zip(sizes[0], original_sizes[0], strict=True)
        ]
        factors = torch.stack([ratios[1], ratios[0], ratios[1], ratios[0]])
        return [{**found, "boxes": found["boxes"] * factors} for found in result]


def _as_tensor(size: Any) -> Tensor:
    """Return a size of a tensor as a tensor; in a trace it already is one."""
    return size if isinstance(size, Tensor) else torch.tensor(size)


def _resize_matrix(size: Tensor, new: Tensor) -> Tensor:
    """Return the matrix (new, size) of bilinear interpolation with antialiasing, with rows of zeros as padding."""
    padded = (new + DIVISOR - 1).div(DIVISOR, rounding_mode="floor") * DIVISOR
    index = torch.arange(padded)  # type: ignore[call-overload]
    ratio = size.double() / new.double()
    centre = (index + 0.5) * ratio
    distance = (torch.arange(size) + 0.5 - centre.unsqueeze(1)) / ratio.clamp_min(1.0)  # type: ignore[call-overload]
    weights = (1 - distance.abs()).clamp_min(0.0) * (index < new).unsqueeze(1)
    return (weights / weights.sum(1, keepdim=True).clamp_min(1e-12)).float()


def write_detector(deployed: DeployedDetector, path: Path) -> None:
    """Write an ONNX file with weights, metadata, and the score threshold of the detector as default of the input."""
    onnx = require("onnx")
    image = deployed.to_input(pictures(1, 3, deployed.min_side, deployed.min_side + 8))
    with quiet(), torch.no_grad():
        torch.onnx.export(
            deployed,
            (image, torch.tensor(0.0)),
            str(path),
            dynamo=False,
            opset_version=OPSET,
            input_names=[INPUT, SCORE],
            output_names=list(deployed.names),
            dynamic_axes={INPUT: deployed.dynamic_dims, **{name: {0: "detections"} for name in deployed.names}},
        )
    model = onnx.load(str(path))
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.array(deployed.score, np.float32), SCORE))
    onnx.helper.set_model_props(model, deployed.about)
    onnx.save(model, str(path))


def check_detector(run: Run, deployed: DeployedDetector, tolerance: float = TOLERANCE) -> list[Check]:
    """Compare an exported graph with the detector on images of several sizes.

    If the detector finds nothing in an image, the image is compared with a lower score threshold.

    Args:
        run: the exported graph as a function of an image and the score threshold.
        deployed: the detector.
        tolerance: the maximum difference of scores, of mask values, and of boxes relative to the side of the image.

    Returns:
        The results, one per image.

    Raises:
        InputError: the graph does not run, or its detections differ from those of the detector.
    """
    side, longest = deployed.min_side, deployed.max_side
    sizes = [(side, longest), (97, 130), (int(1.4 * side), side), (side // 2 + 3, 2 * side + 5)]
    checks = []
    for seed, (height, width) in enumerate(sizes):
        pixels = pictures(1, 3, height, width, seed)
        score = deployed.score
        expected = deployed.expected(pixels, score)
        while not len(expected["scores"]) and score > 1e-6:
            score /= 2
            expected = deployed.expected(pixels, score)
        where = f"an image of {width} x {height} pixels"
        if not len(expected["scores"]) or not all(np.isfinite(value).all() for value in expected.values()):
            raise InputError(f"The model detects nothing in {where} at any score: its weights are invalid.")
        try:
            found = run(deployed.to_input(pixels).numpy(), **{SCORE: np.array(score, np.float32)})
        except Exception as error:  # each runtime has its own exceptions
            reason = str(error).strip().splitlines()[0]
            raise InputError(f"No file was written, because the exported graph fails for {where}: {reason}") from error
        matched, missed, largest = difference(found, expected, max(height, width), tolerance)
        if not matched or missed > MISSED * (matched + missed):
            raise InputError(
                f"No file was written, because the exported graph differs from the model: for {where}, only {matched} "
                f"of {len(expected['scores'])} detections agree to {tolerance:.0e}."
            )
        checks.append(Check(1, height, width, largest))
    return checks


def difference(
    found: dict[str, Array], expected: dict[str, Array], side: int, tolerance: float
) -> tuple[int, int, float]:
    """Match the detections of a graph with those of the detector.

    Detections whose scores differ by less than the tolerance compete in the non-maximum suppression, and rounding
    decides which one remains. Such detections are not counted if they have no match.

    Args:
        found: detections of the graph.
        expected: detections of the detector.
        side: longest side of the image in pixels, which the errors of boxes are relative to.
        tolerance: the maximum error of a match.

    Returns:
        The number of matches, the number of detections on either side without a match, and the largest error of a
        match.
    """
    scores = np.concatenate([found["scores"], expected["scores"]])
    errors = np.abs(found["scores"][:, None] - expected["scores"])
    errors = np.maximum(errors, np.abs(found["boxes"][:, None] - expected["boxes"]).max(2) / side)
    errors[found["labels"][:, None] != expected["labels"]] = np.inf
    if "masks" in expected:
        for j, k in np.argwhere(errors <= tolerance):
            errors[j, k] = max(errors[j, k], np.abs(found["masks"][j] - expected["masks"][k]).max())
    matches: dict[int, int] = {}
    for j, k in sorted(np.argwhere(errors <= tolerance).tolist(), key=lambda pair: errors[pair[0], pair[1]]):
        if j not in matches and k not in matches.values():
            matches[j] = k
    single = [found["scores"][j] for j in range(len(found["scores"])) if j not in matches]
    single += [score for k, score in enumerate(expected["scores"]) if k not in matches.values()]
    missed = sum(int((np.abs(scores - score) <= tolerance).sum() == 1) for score in single)
    return len(matches), missed, max((float(errors[j, k]) for j, k in matches.items()), default=0.0)
