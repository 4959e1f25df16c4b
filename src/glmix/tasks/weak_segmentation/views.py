"""What a classifier and its slots see of an image that is looked at in several ways: as it is, mirrored, turned.

A convolution that was trained on turned images still sees each turn a little differently. In the image's own frame the
activations are averaged, and the slot maps stand side by side as those of so many blocks.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from ...compat import uncompiled
from ...errors import InputError
from ...slots.cam import class_evidence
from ...slots.maps import BlockMaps, evaluating, recording

__all__ = ["VIEWS", "Look", "look", "mean_of_views"]

VIEWS = (1, 2, 8)


@dataclass(frozen=True, eq=False)
class Look:
    """What was seen of a batch.

    Args:
        activation: (B, K, h, w), class activation, averaged over the views.
        maps: of the blocks in order of execution, those of one view after those of the other.
        features: of each view, what the stages gave, (B, C, h', w') each.
    """

    activation: Tensor
    maps: list[BlockMaps]
    features: list[list[Tensor]]

    def of(self, blocks: "tuple[int, ...] | None") -> list[BlockMaps]:
        """The maps of these blocks, by their place in the order of execution, from the end where negative."""
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


def _turned(x: Tensor, quarters: int, mirrored: bool) -> Tensor:
    """(B, C, H, W), turned by quarters of a circle and then mirrored."""
    x = torch.rot90(x, quarters, (2, 3))
    return x.flip(3) if mirrored else x


def _turned_back(x: Tensor, quarters: int, mirrored: bool) -> Tensor:
    """What undoes `_turned`."""
    return torch.rot90(x.flip(3) if mirrored else x, -quarters, (2, 3))


def _maps_turned_back(block: BlockMaps, quarters: int, mirrored: bool) -> BlockMaps:
    """The same slots of the same pixels, in the frame of the image. Slots have no order that would matter here."""

    def back(pair: Tensor) -> Tensor:
        return _turned_back(pair.unflatten(2, block.grid), quarters, mirrored).flatten(2)

    grid = (block.grid[1], block.grid[0]) if quarters % 2 else block.grid
    return replace(block, grid=grid, clustering=back(block.clustering), assignment=back(block.assignment))


def _ways(views: int) -> list[tuple[int, bool]]:
    """Quarters of a circle and whether mirrored, for each view."""
    if views not in VIEWS:
        raise InputError(f"views must be one of {', '.join(map(str, VIEWS))}, got {views}.")
    return [(quarters, mirrored) for quarters in range(4 if views == 8 else 1) for mirrored in (False, True)][:views]


def mean_of_views(maps_of: Callable[[Tensor], Tensor], images: Tensor, views: int) -> Tensor:
    """Compute maps (B, K, h, w) of mirrored and rotated images (B, C, H, W) and average them in the images' frame."""
    maps = [_turned_back(maps_of(_turned(images, *way)), *way) for way in _ways(views)]
    return torch.stack(maps).mean(0)


def look(model: nn.Module, images: Tensor, views: int = 1) -> Look:
    """Look at images (B, C, H, W) in one way; in two, also mirrored; or in eight, with every turn.

    Nothing carries a gradient, and the model stays as it was.
    """
    ways = _ways(views)
    net = uncompiled(model)
    activations, maps, features = [], [], []
    with torch.no_grad(), evaluating(model):
        for quarters, mirrored in ways:
            with recording(model) as seen:
                final, stages = net.forward_intermediates(_turned(images, quarters, mirrored))
            activations.append(_turned_back(class_evidence(model, final), quarters, mirrored))
            features.append([_turned_back(stage, quarters, mirrored) for stage in stages])
            maps += [_maps_turned_back(block, quarters, mirrored) for block in seen]
    return Look(torch.stack(activations).mean(0), maps, features)
