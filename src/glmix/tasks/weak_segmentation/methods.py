"""From image labels to seeds: class activation, what slots make of it, and the controls that it must beat."""

from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ...errors import InputError
from ...slots.cut import oriented, slot_cut, slot_kernel, soft_sign
from .gradcam import GRAD_CAMS, grad_cam
from .refine import refine, resized
from .seeds import SeedMaps, claims, topped
from .views import VIEWS, Look, look, mean_of_views

__all__ = ["Method", "SeedConfig", "class_maps", "dense_cut", "seed_maps", "seeds_of"]

Method = Literal[
    "cam",
    "slots",
    "slotcut",
    "dense",
    "gradcam",
    "gradcam++",
    "layercam",
    "xgradcam",
    "eigengradcam",
    "hirescam",
]
Sign = Literal["classes", "border"]


@dataclass(frozen=True)
class SeedConfig:
    """How seeds are made of what was seen.

    Args:
        method: `cam`: class activation alone. `slots`: refined by the slots. `slotcut`: that, and SlotCut. `dense`: a
            control, in which the cut is that of the cosine kernel between features, N x N. The other names are methods
            of the package pytorch-grad-cam, which only `seeds_of` computes.
        blocks: whose slots the cut is made of, by place; None for all.
        share: how much of a refinement comes from the slots, at most 0.5 of it is of use.
        effective: slots that a pixel has in effect, to which the temperature is brought; None: as learnt.
        sign: which side of the cut is the object: the one of the classes, or what the image's border is not. The border
            knows better where class maps are coarser than objects, as at the end of a network on small images.
        views: 1, 2 (mirrored too) or 8 (every turn too), where turning leaves things what they are.
        polish: refine by pixels afterwards (PAMR).
        dilations: how far away the neighbours of a pixel are in that, in pixels.
        stage: whose features the control `dense` takes.
    """

    method: Method = "slotcut"
    blocks: tuple[int, ...] | None = None
    share: float = 0.5
    effective: float | None = 4.0
    sign: Sign = "classes"
    views: int = 1
    polish: bool = False
    dilations: tuple[int, ...] = (1, 2, 4)
    stage: int = 0

    def __post_init__(self) -> None:
        for name in ("blocks", "dilations"):  # lists, which YAML gives, become tuples
            value = getattr(self, name)
            object.__setattr__(self, name, None if value is None else tuple(value))
        if self.method not in get_args(Method):
            raise InputError(f"method must be one of {', '.join(get_args(Method))}, got {self.method!r}.")
        if self.sign not in get_args(Sign):
            raise InputError(f"sign must be one of {', '.join(get_args(Sign))}, got {self.sign!r}.")
        if not 0 <= self.share <= 1:
            raise InputError(f"share must lie in [0, 1], got {self.share}.")
        if self.effective is not None and not self.effective >= 1:
            raise InputError(f"effective must be at least 1, or null, got {self.effective}.")
        if self.views not in VIEWS:
            raise InputError(f"views must be one of {', '.join(map(str, VIEWS))}, got {self.views}.")


def dense_cut(features: list[Tensor], evidence: Tensor | None, grid: tuple[int, int]) -> Tensor:
    """The control: the normalised cut of the cosine kernel between features, N x N, built. (B, *grid), from 0 to 1.

    Args:
        features: (B, C, h, w) of each view; their kernels are averaged.
        evidence: (B, h', w'), for the sign; None for the border.
    """
    kernel: Tensor | float = 0.0
    for view in features:
        pixels = F.normalize(resized(view, grid).flatten(2), dim=1)  # (B, C, N)
        kernel = kernel + (pixels.transpose(1, 2) @ pixels).clamp_min(0) / len(features)
    assert isinstance(kernel, Tensor)
    degrees = kernel.sum(2).clamp_min(torch.finfo(kernel.dtype).tiny).rsqrt()  # (B, N)
    second = torch.linalg.eigh(kernel * degrees[:, :, None] * degrees[:, None])[1][:, :, -2] * degrees
    cut = (second - second.mean(1, keepdim=True)).unflatten(1, grid)
    return soft_sign(oriented(cut, evidence))


def class_maps(seen: Look, present: Tensor, config: SeedConfig) -> Tensor:
    """(B, K, h, w), from 0 to 1: what the classes that are present (B, K) claim, refined by the slots or not."""
    classes = claims(seen.activation, present)
    if config.method == "cam":
        return classes
    return topped(refine(classes, seen.maps, share=config.share, effective=config.effective))


def seed_maps(seen: Look, classes: Tensor, config: SeedConfig, *, cut_maps: Look | None = None) -> SeedMaps:
    """Seeds on the grid of the class maps, without the polish.

    Args:
        seen: by `look`, with the configuration's number of views.
        classes: by `class_maps`.
        cut_maps: another look, whose slots are cut: that of an untrained network is a control.
    """
    evidence = classes.amax(1) if config.sign == "classes" else None
    grid = (classes.shape[2], classes.shape[3])
    if config.method == "slotcut":
        blocks = (cut_maps or seen).of(config.blocks)
        return SeedMaps(classes, slot_cut(slot_kernel(blocks, grid, effective=config.effective), evidence))
    if config.method == "dense":
        return SeedMaps(classes, dense_cut([view[config.stage] for view in seen.features], evidence, grid))
    return SeedMaps(classes)


def seeds_of(model: nn.Module, images: Tensor, present: Tensor, config: SeedConfig) -> SeedMaps:
    """From images (B, C, H, W) and their labels (B, K), 1 for a class that is there, to seeds of the images' size."""
    if config.method in GRAD_CAMS:
        classes = mean_of_views(lambda x: grad_cam(model, x, present, config.method), images, config.views)
        found = SeedMaps(topped(classes))
    else:
        seen = look(model, images, config.views)
        found = seed_maps(seen, class_maps(seen, present, config), config)
    return found.polished(images, config.dilations) if config.polish else found.at((images.shape[2], images.shape[3]))
