"""torchvision's detectors made blind to padding: an image's detections do not depend on its neighbours in the batch.

Images of different sizes are batched by padding them below and to the right. Which pixels are padding is known to the
transform alone, and the backbone is handed nothing but a tensor; so the mask travels in that tensor, as a channel
behind the colours. Behind the backbone padding is where all features of a pixel are exactly zero, and what looks
further than one pixel keeps it so.

Letters: B images, C channels, an H x W grid, A anchors a pixel, K classes.
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
    "hide_padding",
    "split_mask",
]


def hide_padding(x: Tensor, image: Tensor) -> Tensor:
    """x (B, C, H, W) with zeros outside of the image (B, 1, H, W)."""
    return x.masked_fill(~image, 0.0)


def in_image(features: Tensor) -> Tensor:
    """Where the image is (B, 1, H, W), as features (B, C, H, W) that were hidden say."""
    return (features != 0).any(1, keepdim=True)


def split_mask(x: Tensor, channels: int) -> tuple[Tensor, Tensor | None]:
    """Images (B, C, H, W), and where they are (B, H, W), of a batch that `DetectorTransform` made."""
    return (x, None) if x.shape[1] == channels else (x[:, :channels], x[:, channels] > 0)


class DetectorTransform(GeneralizedRCNNTransform):  # type: ignore[misc]
    """Normalise and batch images, uint8 or float in [0, 1]; in evaluation resize them before, with their boxes after.

    Images of training come resized, with their boxes and masks, from the data. Where sizes differ from the batch's a
    last channel says which pixels belong to the image.
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
    """Anchors at every pixel of grids with these strides, in float32 whatever the features are.

    torchvision divides the size of the batch by that of a map, which is no fixed stride where maps are tiny.

    Args:
        strides: of each map, in pixels of the image.
        sizes: [anchors' sides in pixels, ...] for each map.
        ratios: heights / widths.
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


class InImage(nn.Sequential):
    """Convolutions that see zeros in the padding, each of them."""

    def forward(self, x: Tensor) -> Tensor:
        image = in_image(x)
        for layer in self:
            x = hide_padding(layer(x), image)
        return x


class PaddedRPNHead(RPNHead):  # type: ignore[misc]
    """torchvision's, which proposes nothing in the padding when it is not trained."""

    def forward(self, x: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        logits, deltas = super().forward(x)
        logits, deltas = [part.float() for part in logits], [part.float() for part in deltas]
        if not self.training:
            logits = [
                part.masked_fill(~in_image(features), -torch.inf) for part, features in zip(logits, x, strict=True)
            ]
        return logits, deltas


class PaddedRetinaNetHead(RetinaNetHead):  # type: ignore[misc]
    """torchvision's, which detects nothing in the padding when it is not trained."""

    def __init__(self, channels: int, num_anchors: int, num_classes: int) -> None:
        super().__init__(channels, num_anchors, num_classes)
        for head in (self.classification_head, self.regression_head):
            head.conv = InImage(*head.conv)

    def forward(self, x: list[Tensor]) -> dict[str, Tensor]:
        found = {name: part.float() for name, part in super().forward(x).items()}
        if not self.training:
            logits = found["cls_logits"]  # (B, H * W * A of all maps, K)
            image = torch.cat([in_image(features).flatten(1) for features in x], 1)
            anchors = logits.shape[1] // image.shape[1]
            found["cls_logits"] = logits.masked_fill(~image.repeat_interleave(anchors, 1).unsqueeze(2), -torch.inf)
        return found


class RegionPool(MultiScaleRoIAlign):  # type: ignore[misc]
    """RoIAlign on maps of known strides. Beside the image it reads the image's last row and column, as it does where
    there is no padding.

    Args:
        strides: of the maps "0", "1", ...
        output_size: cells a side of a pooled region.
    """

    def __init__(self, strides: Sequence[int], output_size: int) -> None:
        super().__init__([str(k) for k in range(len(strides))], output_size, sampling_ratio=2)
        self.strides = tuple(strides)
        self.scales = [1 / stride for stride in strides]
        levels = [int(math.log2(stride)) for stride in (strides[0], strides[-1])]
        self.map_levels = LevelMapper(*levels, self.canonical_scale, self.canonical_level)

    def forward(self, x: dict[str, Tensor], boxes: list[Tensor], image_shapes: list[tuple[int, int]]) -> Tensor:
        maps = {
            name: _extended(x[name], [tuple(math.ceil(side / stride) for side in shape) for shape in image_shapes])
            for name, stride in zip(self.featmap_names, self.strides, strict=True)
        }
        pooled: Tensor = super().forward(maps, boxes, image_shapes)
        return pooled


def _extended(x: Tensor, sizes: Sequence[Any]) -> Tensor:
    """x (B, C, H, W) with the last row and column of each image, of these sizes, repeated once in the padding."""
    if all(tuple(size) == x.shape[2:] for size in sizes):
        return x
    x = x.clone()
    for k, (height, width) in enumerate(sizes):
        x[k, :, height : height + 1, :width] = x[k, :, height - 1 : height, :width].clone()
        x[k, :, : height + 1, width : width + 1] = x[k, :, : height + 1, width - 1 : width].clone()
    return x
