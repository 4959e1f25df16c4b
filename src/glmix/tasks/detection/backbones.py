"""Backbones of detectors: the feature maps of a GLNet, or of any other model of timm that has a feature pyramid."""

from collections.abc import Sequence
from typing import Any

import timm
import torch
from timm.layers import Format, LayerNorm2d
from torch import Tensor, nn

from ...compat import BatchNorm
from ...errors import InputError
from ...models import MODEL_NAMES, GLNet, Pyramid
from ...models.restore import BUILD_ERRORS, first_line
from ...training.weights import build_model

__all__ = ["TimmPyramid", "build_backbone", "build_pyramid"]

PROBE = (128, 96)  # rows and columns of the image that checks the sizes of the feature maps


class TimmPyramid(nn.Module):
    """The feature maps of a timm model, with the interface of `Pyramid`.

    Such models accept no mask. As in torchvision's detectors, the padding of a batch has the mean colour, so features
    near the border of an image may depend on the amount of padding.

    Args:
        model: a timm model with `features_only=True`, from `build_backbone`.
        strides: strides of the feature maps that are returned, the finest first.
        frozen_statistics: keep the running statistics of BatchNorm fixed during training.
    """

    def __init__(self, model: nn.Module, strides: Sequence[int], *, frozen_statistics: bool = False) -> None:
        super().__init__()
        self.model = model
        info: Any = model.feature_info
        found, channels = list(info.reduction()), list(info.channels())
        name = (getattr(model, "pretrained_cfg", None) or {}).get("architecture", type(model).__name__)
        if not set(strides) <= set(found) or found[-1] != strides[-1]:
            raise InputError(
                f"The backbone of this detector needs feature maps of the strides {_listed(strides)}, but the maps of "
                f"{name} have {_listed(found)}."
            )
        # of several maps with the same stride, the last one is returned
        self._indices = [len(found) - 1 - found[::-1].index(stride) for stride in strides]
        self.channels = [channels[i] for i in self._indices]
        self.reductions = list(strides)
        self.frozen_statistics = frozen_statistics
        self._channels_last = _is_channels_last(model)
        self.norms = nn.ModuleList(LayerNorm2d(dim, eps=1e-6) for dim in self.channels)

    def train(self, mode: bool = True) -> "TimmPyramid":
        super().train(mode)
        if self.frozen_statistics:
            for module in self.model.modules():
                if isinstance(module, BatchNorm):
                    module.eval()
        return self

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Enable or disable gradient checkpointing, which saves memory in training."""
        if not hasattr(self.model, "set_grad_checkpointing"):
            raise InputError("This backbone of timm does not support gradient checkpointing: set it to false.")
        self.model.set_grad_checkpointing(enable)  # type: ignore[operator]
        for module in self.model.children():  # timm 1.0.22 recomputes the stem's activation alone, which fails in place
            if enable and getattr(module, "inplace", False):
                module.inplace = False  # type: ignore[assignment]

    def forward(self, x: Tensor, mask: Tensor | None = None) -> list[Tensor]:
        """Return the feature maps [(B, C_i, H_i, W_i), ...] of images (B, C, H, W); `mask` is not used."""
        maps = self.model(x)
        chosen = [maps[i].permute(0, 3, 1, 2) if self._channels_last else maps[i] for i in self._indices]
        return [norm(features) for norm, features in zip(self.norms, chosen, strict=True)]


def build_backbone(name: str, model_args: dict[str, Any]) -> nn.Module:
    """Create a GLNet without classifier, or another timm model that returns its feature maps.

    Args:
        name: name of a model of timm.
        model_args: arguments of the model; `pretrained: true` loads the published weights of a timm model.

    Raises:
        InputError: if there is no such model, or if it has no feature maps.
    """
    if name.split(".")[0] in MODEL_NAMES or not timm.is_model(name):
        return build_model(name, model_args, 0)
    try:
        model = build_model(name, {**model_args, "features_only": True}, 0)
        _check_sizes(model)
    except BUILD_ERRORS as error:
        raise InputError(f"{name} cannot be the backbone of a detector: {first_line(error)}") from error
    return model


@torch.no_grad()
def _check_sizes(model: nn.Module) -> None:
    """Check that a model accepts images of any size and that its feature maps have the sizes of their strides."""
    modes = {module: module.training for module in model.modules()}
    maps = model.eval()(torch.zeros(1, 3, *PROBE))
    for module, mode in modes.items():
        module.training = mode
    for features, stride in zip(maps, model.feature_info.reduction(), strict=True):  # type: ignore[operator,union-attr]
        size = tuple(features.shape[1:3] if _is_channels_last(model) else features.shape[2:])
        if size != (PROBE[0] // stride, PROBE[1] // stride):
            raise InputError(
                f"its map of stride {stride} has {size[1]} x {size[0]} positions for {PROBE[1]} x {PROBE[0]} pixels."
            )


def _is_channels_last(model: nn.Module) -> bool:
    return bool(getattr(model, "output_fmt", Format.NCHW) == Format.NHWC)


def build_pyramid(model: nn.Module, strides: Sequence[int], *, frozen_statistics: bool) -> Pyramid | TimmPyramid:
    """Return the feature maps with these strides of a GLNet or of a model of `build_backbone`."""
    if isinstance(model, GLNet):
        stages = [stride.bit_length() - 3 for stride in strides]  # stage 0 has stride 4
        return Pyramid(model, stages, frozen_statistics=frozen_statistics)
    return TimmPyramid(model, strides, frozen_statistics=frozen_statistics)


def _listed(strides: Sequence[int]) -> str:
    return ", ".join(map(str, strides))
