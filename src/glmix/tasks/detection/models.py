"""RetinaNet and Mask R-CNN: torchvision's detectors on a padding-aware feature pyramid."""

import dataclasses
import inspect
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

import torch
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models.detection import MaskRCNN, RetinaNet
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor

from ...errors import InputError
from ...layers import apply_layer
from ...models import Pyramid
from ...training.weights import nearest
from .backbones import TimmPyramid, build_pyramid
from .padding import (
    Anchors,
    DetectorTransform,
    PaddedRetinaNetHead,
    PaddedRPNHead,
    RegionPool,
    apply_mask,
    split_mask,
)

__all__ = ["DetectorConfig", "DetectorKind", "FeaturePyramid", "build_detector"]

DetectorKind = Literal["retinanet", "mask_rcnn"]
RATIOS = (0.5, 1.0, 2.0)
STRIDES = {"retinanet": (8, 16, 32), "mask_rcnn": (4, 8, 16, 32)}  # strides of the backbone's feature maps
RGB = 3  # channels of the images
# arguments of torchvision's detectors that this module sets
RESERVED = {"backbone", "num_classes", "min_size", "max_size", "image_mean", "image_std", "head", "box_roi_pool"}
RESERVED |= {"anchor_generator", "rpn_anchor_generator", "rpn_head", "box_head", "box_predictor", "detections_per_img"}
RESERVED |= {"mask_roi_pool", "mask_head", "mask_predictor", "rpn_score_thresh", "proposal_matcher", "kwargs", "self"}
RESERVED |= {"box_detections_per_img"}


@dataclass
class DetectorConfig:
    """Configuration of a detector. The defaults are the published recipes.

    Args:
        kind: `retinanet` (boxes) or `mask_rcnn` (boxes and masks).
        channels: channels of the feature pyramid and of the heads.
        box_features: hidden features of the box head of Mask R-CNN.
        anchor_scale: side of the smallest anchor per position, in strides of its feature map; None: 4 for RetinaNet,
            8 for Mask R-CNN.
        min_size, max_size: in evaluation, resize the shortest edge of images to `min_size`, or less if the longest
            edge would exceed `max_size`. Training images are resized by the data module.
        frozen_statistics: freeze the running statistics of the backbone's BatchNorm layers, for small batches and a
            pretrained backbone.
        max_detections: maximum number of detections per image.
        mean, std: channel statistics for normalisation, for pixel values from 0 to 1.
        options: further arguments of torchvision's `RetinaNet` or `MaskRCNN`.
    """

    kind: DetectorKind = "mask_rcnn"
    channels: int = 256
    box_features: int = 1024
    anchor_scale: float | None = None
    min_size: int = 800
    max_size: int = 1333
    frozen_statistics: bool = True
    max_detections: int = 100
    mean: tuple[float, float, float] = IMAGENET_DEFAULT_MEAN
    std: tuple[float, float, float] = IMAGENET_DEFAULT_STD
    options: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.kind not in get_args(DetectorKind):
            raise InputError(f"detector.kind must be one of {', '.join(get_args(DetectorKind))}, got {self.kind!r}.")
        for name in ("channels", "box_features", "min_size", "max_detections"):
            if getattr(self, name) < 1:
                raise InputError(f"detector.{name} must be at least 1, got {getattr(self, name)}.")
        if self.max_size < self.min_size:
            raise InputError(f"detector.max_size must be at least min_size, {self.min_size}, got {self.max_size}.")
        kind = RetinaNet if self.kind == "retinanet" else MaskRCNN
        known = set(inspect.signature(kind.__init__).parameters) - RESERVED
        for name in self.options:
            if name not in known:
                raise InputError(
                    f"detector.options has no {name!r}.{nearest(name, known)} It takes {', '.join(sorted(known))}."
                )

    def plain(self) -> dict[str, Any]:
        """Return the configuration as a JSON-compatible dictionary: `DetectorConfig(**plain)` restores it."""
        return {k: list(v) if isinstance(v, tuple) else v for k, v in dataclasses.asdict(self).items()}


class FeaturePyramid(nn.Module):
    """Feature pyramid network (FPN) on the feature maps of a backbone, with zeros in the padding.

    torchvision's FPN does not accept a mask: its biases would fill the padding, and the next convolution would read it.

    Args:
        pyramid: the backbone.
        channels: channels of every output map.
        coarser: `pool` adds one map with every second pixel of the last map; `convolve` adds two maps by convolutions
            of stride 2 on the last map of the backbone.
    """

    def __init__(self, pyramid: Pyramid | TimmPyramid, channels: int, coarser: Literal["pool", "convolve"]) -> None:
        super().__init__()
        self.pyramid = pyramid
        self.out_channels = channels
        self.lateral = nn.ModuleList(nn.Conv2d(dim, channels, 1) for dim in pyramid.channels)
        self.smooth = nn.ModuleList(nn.Conv2d(channels, channels, 3, padding=1) for _ in pyramid.channels)
        self.coarser = nn.ModuleList()
        if coarser == "convolve":
            dims = (pyramid.channels[-1], channels)
            self.coarser.extend(nn.Conv2d(dim, channels, 3, stride=2, padding=1) for dim in dims)
        strides = list(pyramid.reductions)
        strides += [strides[-1] * 2**k for k in range(1, 1 + max(1, len(self.coarser)))]
        self.strides = tuple(strides)
        for layer in (*self.lateral, *self.smooth, *self.coarser):
            nn.init.kaiming_uniform_(layer.weight, a=1)
            nn.init.zeros_(layer.bias)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Return the feature maps {"0": (B, channels, H, W), ...}, the finest map first.

        Args:
            x: images (B, C, H, W). If the batch is padded, a last channel is 0 in the padding.
        """
        images, mask = split_mask(x, RGB)

        def hide(features: Tensor, level: int) -> Tensor:
            if mask is None:
                return features
            stride = self.strides[level]
            return apply_mask(features, mask[:, None, ::stride, ::stride])

        maps = [hide(features, k) for k, features in enumerate(self.pyramid(images, mask))]
        merged: list[Tensor] = []
        for k in reversed(range(len(maps))):
            lateral = self.lateral[k](maps[k])
            if merged:
                lateral = lateral + F.interpolate(merged[0], lateral.shape[-2:], mode="nearest")
            merged.insert(0, hide(lateral, k))
        outputs = [
            hide(smooth(features), k) for k, (smooth, features) in enumerate(zip(self.smooth, merged, strict=True))
        ]
        if not self.coarser:
            outputs.append(outputs[-1][:, :, ::2, ::2])
        last = maps[-1]
        for k, convolve in enumerate(self.coarser):
            last = hide(apply_layer(convolve, last if k == 0 else last.relu()), len(maps) + k)
            outputs.append(last)
        return {str(k): features for k, features in enumerate(outputs)}


class _Trainable:
    """Mixin with the methods that a task calls on its model."""

    backbone: FeaturePyramid
    task = "detection"  # what the outputs are, for exported files

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        self.backbone.pyramid.set_grad_checkpointing(enable)

    def no_weight_decay(self) -> set[str]:
        model: Any = self.backbone.pyramid.model
        names = model.no_weight_decay() if hasattr(model, "no_weight_decay") else ()
        return {f"backbone.pyramid.model.{name}" for name in names}


class _RetinaNet(_Trainable, RetinaNet):  # type: ignore[misc]
    pass


class _MaskRCNN(_Trainable, MaskRCNN):  # type: ignore[misc]
    pass


class _BoxPredictor(FastRCNNPredictor):  # type: ignore[misc]
    """torchvision's box predictor with float32 outputs, also under autocast, for precise boxes."""

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        scores, deltas = super().forward(x)
        return scores.float(), deltas.float()


def build_detector(config: DetectorConfig, model: nn.Module, num_classes: int) -> nn.Module:
    """Build a detector on a backbone, whose stages become part of the detector.

    Args:
        config: configuration of the detector.
        model: a GLNet, or a model of timm that was created with `features_only=True`.
        num_classes: number of classes without the background; labels are numbered from 1.
    """
    single_stage = config.kind == "retinanet"
    pyramid = build_pyramid(model, STRIDES[config.kind], frozen_statistics=config.frozen_statistics)
    backbone = FeaturePyramid(pyramid, config.channels, "convolve" if single_stage else "pool")
    scale = config.anchor_scale or (4.0 if single_stage else 8.0)
    octaves = (1.0, 2 ** (1 / 3), 2 ** (2 / 3)) if single_stage else (1.0,)
    strides = backbone.strides
    anchors = Anchors(strides, [[scale * stride * octave for octave in octaves] for stride in strides], RATIOS)
    count = anchors.num_anchors_per_location()[0]
    built: Any = (_retinanet if single_stage else _mask_rcnn)(config, backbone, anchors, count, num_classes + 1)
    built.transform = DetectorTransform(config.min_size, config.max_size, list(config.mean), list(config.std))
    detector: nn.Module = built.train()  # train() freezes the statistics
    return detector


def _retinanet(
    config: DetectorConfig, backbone: FeaturePyramid, anchors: Anchors, count: int, outputs: int
) -> nn.Module:
    head = PaddedRetinaNetHead(config.channels, count, outputs)
    options = {"detections_per_img": config.max_detections, **config.options}
    detector: nn.Module = _RetinaNet(backbone, outputs, anchor_generator=anchors, head=head, **options)
    return detector


def _mask_rcnn(
    config: DetectorConfig, backbone: FeaturePyramid, anchors: Anchors, count: int, outputs: int
) -> nn.Module:
    channels, strides = config.channels, backbone.strides[:-1]  # the coarsest map is for proposals only
    boxes, masks = RegionPool(strides, 7), RegionPool(strides, 14)
    options = {"box_detections_per_img": config.max_detections, **config.options}
    detector: nn.Module = _MaskRCNN(
        backbone,
        rpn_anchor_generator=anchors,
        rpn_head=PaddedRPNHead(channels, count),
        rpn_score_thresh=torch.finfo(torch.float32).tiny,  # drops proposals in the padding, whose score is 0
        box_roi_pool=boxes,
        box_head=TwoMLPHead(channels * 7 * 7, config.box_features),
        box_predictor=_BoxPredictor(config.box_features, outputs),
        mask_roi_pool=masks,
        mask_head=MaskRCNNHeads(channels, (channels,) * 4, 1),
        mask_predictor=MaskRCNNPredictor(channels, channels, outputs),
        **options,
    )
    return detector
