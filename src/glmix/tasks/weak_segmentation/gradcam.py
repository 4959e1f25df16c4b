"""Gradient-based class activation maps of the package pytorch-grad-cam, as baselines for a GLNet."""

import warnings
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ...errors import InputError, needs_extra

__all__ = ["GRAD_CAMS", "grad_cam"]

# {name: class in pytorch_grad_cam}
GRAD_CAMS = {
    "gradcam": "GradCAM",
    "gradcam++": "GradCAMPlusPlus",
    "layercam": "LayerCAM",
    "xgradcam": "XGradCAM",
    "eigengradcam": "EigenGradCAM",
    "hirescam": "HiResCAM",
}


def grad_cam(model: nn.Module, images: Tensor, present: Tensor, method: str = "gradcam") -> Tensor:
    """Return class maps (B, K, H, W) from 0 to 1, computed from the output of the last stage.

    The maps of classes that are not in an image are zero.

    Args:
        model: a GLNet in evaluation mode.
        images: (B, C, H, W).
        present: image labels (B, K), 1 for each class in an image.
        method: a name in `GRAD_CAMS`.

    Raises:
        InputError: the method is unknown.
        MissingExtraError: the package pytorch-grad-cam is not installed.
    """
    with needs_extra("slots", "gradient-based CAMs"):
        import pytorch_grad_cam as library  # type: ignore[import-untyped]
        from pytorch_grad_cam.utils.model_targets import (  # type: ignore[import-untyped]
            ClassifierOutputTarget,
        )
    if method not in GRAD_CAMS:
        raise InputError(f"method must be one of {', '.join(GRAD_CAMS)}, got {method!r}.")
    net: Any = model
    maps = images.new_zeros((*present.shape, *images.shape[2:]))
    if not present.any():
        return maps
    rows, classes = present.nonzero(as_tuple=True)
    with warnings.catch_warnings(), torch.enable_grad():
        warnings.simplefilter("ignore")  # numpy warns about constant maps
        with getattr(library, GRAD_CAMS[method])(model, [net.stages[-1]]) as extractor:
            found = extractor(images[rows], [ClassifierOutputTarget(k) for k in classes.tolist()])
    model.zero_grad(set_to_none=True)
    on_grid = torch.from_numpy(found).to(maps).nan_to_num()
    if on_grid.shape[1:] != maps.shape[2:]:
        on_grid = F.interpolate(on_grid[:, None], maps.shape[2:], mode="bilinear", align_corners=False)[:, 0]
    maps[rows, classes] = on_grid
    return maps
