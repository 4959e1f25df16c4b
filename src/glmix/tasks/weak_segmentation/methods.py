"""Seeds from image labels: class activation maps, refinement by slots, SlotCut, and baselines."""

from dataclasses import dataclass
from typing import Literal, get_args

from torch import Tensor, nn
from torch.nn import functional as F

from ...errors import InputError
from ...slots.cut import dense_cut, orient_cut, slot_cut, slot_kernel, soft_sign
from .gradcam import GRAD_CAMS, grad_cam
from .refine import refine, resized
from .seeds import SeedMaps, normalise_activation, scale_to_max
from .views import VIEWS, ViewOutputs, mean_of_views, run_views

__all__ = ["Method", "SeedConfig", "class_maps", "dense_objectness", "seed_maps", "seeds_of"]

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
    """Settings for computing seeds.

    Args:
        method: `cam`: class activation maps. `slots`: CAMs refined by the slots. `slotcut`: refined CAMs and SlotCut.
            `dense`: a control that replaces the slots in the cut by the N x N cosine kernel between features. The other
            names are methods of the package pytorch-grad-cam, which only `seeds_of` computes.
        blocks: indices of the blocks whose slots are used for the cut; None for all.
        share: weight of the slots in the refinement; values above 0.5 do not help.
        effective: number of effective slots per pixel, set by the softmax temperature. None: the learned temperature.
        sign: side of the cut that becomes the object: the side with the evidence for `classes`, or the side that is not
            at the image `border`. The border is more reliable where class maps are coarser than objects, as in the last
            stage of a network for small images.
        views: number of test-time augmentation views: 1, 2 (mirrored) or 8 (mirrored and rotated). Rotation suits
            images whose classes do not depend on orientation.
        polish: refine the seeds with PAMR.
        dilations: distances in pixels of the neighbours in PAMR.
        stage: index of the stage whose features the control `dense` uses.
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
        for name in ("blocks", "dilations"):  # YAML gives lists
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


def dense_objectness(features: list[Tensor], evidence: Tensor | None, grid: tuple[int, int]) -> Tensor:
    """Return the normalised cut of the dense N x N cosine kernel between features, (B, *grid) from 0 to 1.

    This is the control for SlotCut, which never builds the N x N kernel.

    Args:
        features: features (B, C, h, w) per view; their kernels are averaged.
        evidence: (B, h', w'), larger on the object; sets the sign. None: the sign is set by the image border.
        grid: height and width of the cut.
    """
    kernel: Tensor | float = 0.0
    for view in features:
        pixels = F.normalize(resized(view, grid).flatten(2), dim=1)  # (B, C, N)
        kernel = kernel + (pixels.transpose(1, 2) @ pixels).clamp_min(0) / len(features)
    assert isinstance(kernel, Tensor)
    cut = dense_cut(kernel)
    return soft_sign(orient_cut((cut - cut.mean(1, keepdim=True)).unflatten(1, grid), evidence))


def class_maps(outputs: ViewOutputs, present: Tensor, config: SeedConfig) -> Tensor:
    """Return class maps (B, K, h, w) from 0 to 1 of the classes that are present (B, K), refined as configured."""
    classes = normalise_activation(outputs.activation, present)
    if config.method == "cam":
        return classes
    return scale_to_max(refine(classes, outputs.maps, share=config.share, effective=config.effective))


def seed_maps(
    outputs: ViewOutputs, classes: Tensor, config: SeedConfig, *, cut_maps: ViewOutputs | None = None
) -> SeedMaps:
    """Return seeds on the grid of the class maps, without PAMR.

    Args:
        outputs: result of `run_views` with the configured number of views.
        classes: result of `class_maps`.
        config: settings of the seeds.
        cut_maps: outputs whose slots are used for the cut instead, such as those of an untrained network as a control.
    """
    evidence = classes.amax(1) if config.sign == "classes" else None
    grid = (classes.shape[2], classes.shape[3])
    if config.method == "slotcut":
        blocks = (cut_maps or outputs).maps_of(config.blocks)
        return SeedMaps(classes, slot_cut(slot_kernel(blocks, grid, effective=config.effective), evidence))
    if config.method == "dense":
        return SeedMaps(classes, dense_objectness([view[config.stage] for view in outputs.features], evidence, grid))
    return SeedMaps(classes)


def seeds_of(model: nn.Module, images: Tensor, present: Tensor, config: SeedConfig) -> SeedMaps:
    """Return seeds at the size of the images (B, C, H, W), given multi-hot image labels (B, K)."""
    if config.method in GRAD_CAMS:
        classes = mean_of_views(lambda x: grad_cam(model, x, present, config.method), images, config.views)
        found = SeedMaps(scale_to_max(classes))
    else:
        outputs = run_views(model, images, config.views)
        found = seed_maps(outputs, class_maps(outputs, present, config), config)
    return (
        found.refined_by_pamr(images, config.dilations)
        if config.polish
        else found.at((images.shape[2], images.shape[3]))
    )
