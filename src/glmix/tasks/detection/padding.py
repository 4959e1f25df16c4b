"""Padding-aware parts of torchvision's detectors: detections do not depend on the other images of a batch.

Images of different sizes are padded at the bottom and right to form a batch. Only the transform knows which pixels are
padding, and the backbone receives a single tensor, so the mask is a channel of that tensor after the colour channels.
After the backbone, all features of padding pixels are exactly zero, and layers with a receptive field larger than one
pixel keep them at zero.

Shapes: B images, C channels, an H x W grid, A anchors per pixel, K classes.
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.retinanet import RetinaNetHead
from torchvision.models.detection.rpn import RPNHead
from torchvision.models.detection.transform import GeneralizedRCNNTransform
from torchvision.ops import MultiScaleRoIAlign
from torchvision.ops.poolers import LevelMapper

from ...data.detection.transforms import shortest_edge

__all__ = [
    "Anchors",
    "DetectorTransform",
    "PaddedRPNHead",
    "PaddedRetinaNetHead",
    "RegionPool",
    "apply_mask",
    "split_mask",
]


def apply_mask(x: Tensor, image: Tensor) -> Tensor:
    """Return x (B, C, H, W) with zeros outside of the image mask (B, 1, H, W)."""
    return x.masked_fill(~image, 0.0)


def image_mask(features: Tensor) -> Tensor:
    """Return the image mask (B, 1, H, W) of features (B, C, H, W) that are zero in the padding."""
    return (features != 0).any(1, keepdim=True)


def split_mask(x: Tensor, channels: int) -> tuple[Tensor, Tensor | None]:
    """Split a batch of `DetectorTransform` into images (B, C, H, W) and their mask (B, H, W), None without padding."""
    return (x, None) if x.shape[1] == channels else (x[:, :channels], x[:, channels] > 0)


class DetectorTransform(GeneralizedRCNNTransform):  # type: ignore[misc]
    """Transform that normalises and batches images, uint8 or float in [0, 1].

    In evaluation it resizes the images and scales predicted boxes back. Training images are resized by the data module.
    If the batch is padded, a last channel is not 0 on the pixels of the images.
    """

    def normalize(self, image: Tensor) -> Tensor:
        return super().normalize(image if image.is_floating_point() else image / 255)

    def resize(self, image: Tensor, target: dict[str, Tensor] | None = None) -> tuple[Tensor, dict[str, Tensor] | None]:
        height, width = image.shape[-2:]
        size = shortest_edge(height, width, self.min_size[-1], self.max_size)
        if self.training or size == (height, width):
            return image, target
        return F.interpolate(image[None], size, mode="bilinear", antialias=True)[0], target

    def batch_images(self, images: list[Tensor], size_divisible: int = 32) -> Tensor:
        height, width = (
            math.ceil(max(image.shape[i] for image in images) / size_divisible) * size_divisible for i in (1, 2)
        )
        if any(image.shape[-2:] != (height, width) for image in images):
            images = [torch.cat([image, torch.ones_like(image[:1])]) for image in images]
        batch: Tensor = super().batch_images(images, size_divisible)
        return batch


class Anchors(AnchorGenerator):  # type: ignore[misc]
    """Anchor generator with fixed strides and float32 anchors.

    torchvision computes strides as the size of the batch divided by that of the feature map, which is inexact for tiny
    feature maps.

    Args:
        strides: stride of each feature map, in pixels of the image.
        sizes: per feature map, the sides of the anchors in pixels.
        ratios: aspect ratios, height / width.
    """

    def __init__(self, strides: Sequence[int], sizes: Sequence[Sequence[float]], ratios: Sequence[float]) -> None:
        super().__init__(tuple(map(tuple, sizes)), (tuple(ratios),) * len(sizes))
        self.strides = tuple(strides)

    def forward(self, image_list: ImageList, feature_maps: list[Tensor]) -> list[Tensor]:
        device = feature_maps[0].device
        self.set_cell_anchors(torch.float32, device)
        strides = [[torch.tensor(stride, device=device)] * 2 for stride in self.strides]
        anchors = torch.cat(self.grid_anchors([x.shape[-2:] for x in feature_maps], strides))
        return [anchors] * len(image_list.image_sizes)


class MaskedSequential(nn.Sequential):
    """Sequential layers with zeros in the padding after every layer."""

    def forward(self, x: Tensor) -> Tensor:
        image = image_mask(x)
        for layer in self:
            x = apply_mask(layer(x), image)
        return x


class PaddedRPNHead(RPNHead):  # type: ignore[misc]
    """torchvision's RPN head without proposals in the padding in evaluation mode."""

    def forward(self, x: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        logits, deltas = super().forward(x)
        logits, deltas = [level.float() for level in logits], [level.float() for level in deltas]
        if not self.training:
            logits = [
                level.masked_fill(~image_mask(features), -torch.inf) for level, features in zip(logits, x, strict=True)
            ]
        return logits, deltas


class PaddedRetinaNetHead(RetinaNetHead):  # type: ignore[misc]
    """torchvision's RetinaNet head without detections in the padding in evaluation mode."""

    def __init__(self, channels: int, num_anchors: int, num_classes: int) -> None:
        super().__init__(channels, num_anchors, num_classes)
        for head in (self.classification_head, self.regression_head):
            head.conv = MaskedSequential(*head.conv)

    def forward(self, x: list[Tensor]) -> dict[str, Tensor]:
        outputs = {name: output.float() for name, output in super().forward(x).items()}
        if not self.training:
            logits = outputs["cls_logits"]  # (B, H * W * A of all maps, K)
            image = torch.cat([image_mask(features).flatten(1) for features in x], 1)
            anchors = logits.shape[1] // image.shape[1]
            outputs["cls_logits"] = logits.masked_fill(~image.repeat_interleave(anchors, 1).unsqueeze(2), -torch.inf)
        return outputs


class RegionPool(MultiScaleRoIAlign):  # type: ignore[misc]
    """RoIAlign on feature maps with fixed strides, with edge padding around each image.

    RoIAlign clamps samples at the border of a feature map to its last row and column. Repeating the last row and column
    of each image in the padding gives the same result for padded images.

    Args:
        strides: strides of the feature maps "0", "1", ...
        output_size: side of the pooled grid.
    """

    def __init__(self, strides: Sequence[int], output_size: int) -> None:
        super().__init__([str(k) for k in range(len(strides))], output_size, sampling_ratio=2)
        self.strides = tuple(strides)
        self.scales = [1 / stride for stride in strides]
        levels = [int(math.log2(stride)) for stride in (strides[0], strides[-1])]
        self.map_levels = LevelMapper(*levels, self.canonical_scale, self.canonical_level)

    def forward(self, x: dict[str, Tensor], boxes: list[Tensor], image_shapes: list[tuple[int, int]]) -> Tensor:
        if torch.jit.is_tracing():
            (shape,) = image_shapes
            maps = {
                name: _clamp_to_image(x[name], [(side + stride - 1) // stride for side in shape])
                for name, stride in zip(self.featmap_names, self.strides, strict=True)
            }
            traced: Tensor = super().forward(maps, boxes, image_shapes)
            return traced
        maps = {
            name: _repeat_edges(x[name], [tuple(math.ceil(side / stride) for side in shape) for shape in image_shapes])
            for name, stride in zip(self.featmap_names, self.strides, strict=True)
        }
        pooled: Tensor = super().forward(maps, boxes, image_shapes)
        return pooled


def _repeat_edges(x: Tensor, sizes: Sequence[Any]) -> Tensor:
    """Return x (B, C, H, W) with the last row and column of each image (h, w) repeated once in the padding."""
    if all(tuple(size) == x.shape[2:] for size in sizes):
        return x
    x = x.clone()
    for k, (height, width) in enumerate(sizes):
        x[k, :, height : height + 1, :width] = x[k, :, height - 1 : height, :width].clone()
        x[k, :, : height + 1, width : width + 1] = x[k, :, : height + 1, width - 1 : width].clone()
    return x


def _clamp_to_image(x: Tensor, size: Sequence[Any]) -> Tensor:
    """Return x (1, C, H, W) with the last row and column of the image (h, w) repeated in the whole padding.

    This is `_repeat_edges` for traces of one image, in which sizes are tensors.
    """
    rows, cols = (
        torch.arange(length, device=x.device).clamp_max(side - 1)
        for length, side in zip(x.shape[2:], size, strict=True)
    )
    return x[:, :, rows][..., cols]
