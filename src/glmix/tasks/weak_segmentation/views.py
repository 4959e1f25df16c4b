"""Test-time augmentation: class activation, slot maps and features of mirrored and rotated views of images.

All outputs are transformed back to the orientation of the image. Class activations are averaged over the views. Slot
maps are kept side by side, like those of several blocks.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from ...compat import uncompiled
from ...errors import InputError
from ...slots.evidence import class_evidence
from ...slots.maps import BlockMaps, evaluating, recording

__all__ = ["VIEWS", "ViewOutputs", "run_views", "mean_of_views"]

VIEWS = (1, 2, 8)


@dataclass(frozen=True, eq=False)
class ViewOutputs:
    """Outputs of a classifier for all views of a batch.

    Args:
        activation: class activation (B, K, h, w), averaged over the views.
        maps: slot maps of all blocks in all views.
        features: per view, the outputs (B, C, h', w') of all stages.
    """

    activation: Tensor
    maps: list[BlockMaps]
    features: list[list[Tensor]]

    def maps_of(self, blocks: "tuple[int, ...] | None") -> list[BlockMaps]:
        """Return the slot maps of some blocks.

        Args:
            blocks: indices in the order of execution, negative from the end; None for all.
        """
        if blocks is None:
            return self.maps
        count = 1 + max(block.index for block in self.maps)
        wrong = [index for index in blocks if not -count <= index < count]
        if wrong or not blocks:
            raise InputError(
                f"blocks must name some of the model's {count} blocks with slots, 0 to {count - 1} or from the end, "
                f"-1 to -{count}; got {', '.join(map(str, blocks)) or 'none'}."
            )
        return [block for block in self.maps if block.index in {index % count for index in blocks}]


def _transform(x: Tensor, quarters: int, mirrored: bool) -> Tensor:
    """Rotate a tensor (B, C, H, W) by quarter turns, then mirror it."""
    x = torch.rot90(x, quarters, (2, 3))
    return x.flip(3) if mirrored else x


def _inverse_transform(x: Tensor, quarters: int, mirrored: bool) -> Tensor:
    """Invert `_transform`."""
    return torch.rot90(x.flip(3) if mirrored else x, -quarters, (2, 3))


def _inverse_transform_maps(block: BlockMaps, quarters: int, mirrored: bool) -> BlockMaps:
    """Transform slot maps back to the orientation of the image. The order of slots does not matter here."""

    def invert(matrix: Tensor) -> Tensor:
        return _inverse_transform(matrix.unflatten(2, block.grid), quarters, mirrored).flatten(2)

    grid = (block.grid[1], block.grid[0]) if quarters % 2 else block.grid
    return replace(block, grid=grid, clustering=invert(block.clustering), assignment=invert(block.assignment))


def _view_transforms(views: int) -> list[tuple[int, bool]]:
    """Return the number of quarter turns and whether to mirror, for each view."""
    if views not in VIEWS:
        raise InputError(f"views must be one of {', '.join(map(str, VIEWS))}, got {views}.")
    return [(quarters, mirrored) for quarters in range(4 if views == 8 else 1) for mirrored in (False, True)][:views]


def mean_of_views(maps_of: Callable[[Tensor], Tensor], images: Tensor, views: int) -> Tensor:
    """Compute maps (B, K, h, w) of mirrored and rotated images (B, C, H, W), transform them back and average them."""
    maps = [_inverse_transform(maps_of(_transform(images, *view)), *view) for view in _view_transforms(views)]
    return torch.stack(maps).mean(0)


def run_views(model: nn.Module, images: Tensor, views: int = 1) -> ViewOutputs:
    """Run a classifier on images (B, C, H, W) in 1 view, 2 views (mirrored) or 8 views (mirrored and rotated).

    No output has a gradient. The model keeps its training or evaluation mode.
    """
    transforms = _view_transforms(views)
    net = uncompiled(model)
    activations, maps, features = [], [], []
    with torch.no_grad(), evaluating(model):
        for quarters, mirrored in transforms:
            with recording(model) as recorded:
                final, stages = net.forward_intermediates(_transform(images, quarters, mirrored))
            activations.append(_inverse_transform(class_evidence(model, final), quarters, mirrored))
            features.append([_inverse_transform(stage, quarters, mirrored) for stage in stages])
            maps += [_inverse_transform_maps(block, quarters, mirrored) for block in recorded]
    return ViewOutputs(torch.stack(activations).mean(0), maps, features)
