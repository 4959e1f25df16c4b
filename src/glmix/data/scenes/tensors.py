"""Scenes held as tensors: a batch is gathered, turned and normalised at once, at a fraction of a training step."""

from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from ...errors import InputError
from ..core.sampling import Draw, seed_of
from . import SceneConfig, Split, draw_scene

__all__ = ["SceneTarget", "SceneTensors", "dihedral"]

SceneTarget = Literal["label", "labels", "semantic"]


def dihedral(x: Tensor, codes: Tensor) -> Tensor:
    """One of the eight flips and turns of the square for each image: x (B, C, S, S), codes (B,) from 0 to 7."""
    size = x.shape[-1]
    places = torch.arange(size * size).view(size, size)
    turns = [torch.rot90(places, quarter) for quarter in range(4)]
    table = torch.stack([way.reshape(-1) for turn in turns for way in (turn, turn.flip(1))])  # (8, S * S)
    where = table[codes].unsqueeze(1).expand(-1, x.shape[1], -1)  # (B, C, S * S)
    return x.flatten(2).gather(2, where).view_as(x)


class SceneTensors(Dataset[tuple[Tensor, ...]]):
    """The first scenes of a split, drawn once; asked for a batch, it gives the batch, already put together.

    Draws of training are turned and flipped by (seed, epoch, position), plain indices are left as they are.

    Args:
        config: what the scenes look like.
        split: `train`, `val` or `test`.
        length: number of scenes.
        target: `label`: the class (B,), for scenes of one object; `labels`: which classes are present (B, K);
            `semantic`: class + 1 at each pixel (B, S, S), 0 for the background, turned as its image is.
        mean, std: of each colour, white being 1.
        seed: gives other turns and flips.
        augment: whether draws are turned and flipped.
        grid: cells a side of the dense labels that stand third in a batch, (B, grid, grid, K): the share of a
            cell's pixels that show each class. The background shows none. None leaves them out.
    """

    def __init__(
        self,
        config: SceneConfig,
        split: Split,
        length: int,
        target: SceneTarget,
        *,
        mean: Sequence[float],
        std: Sequence[float],
        seed: int = 0,
        augment: bool = True,
        grid: int | None = None,
    ) -> None:
        if length < 1:
            raise InputError(f"A split needs at least one scene, got {length} for {split}.")
        scenes = [draw_scene(config, split, index) for index in range(length)]
        self.images = torch.from_numpy(np.stack([scene.image for scene in scenes])).permute(0, 3, 1, 2).contiguous()
        if target == "label":
            self.targets = torch.tensor([int(scene.labels[0]) for scene in scenes])
        elif target == "semantic":
            self.targets = torch.from_numpy(np.stack([scene.semantic for scene in scenes]))
        else:
            self.targets = torch.zeros(length, config.num_classes)
            for row, scene in zip(self.targets, scenes, strict=True):
                row[torch.from_numpy(scene.labels)] = 1
        self.dense: Tensor | None = None
        if grid is not None:
            masks = torch.from_numpy(np.stack([scene.semantic for scene in scenes]))
            shares = [
                torch.nn.functional.adaptive_avg_pool2d((masks == k + 1).float(), grid)
                for k in range(config.num_classes)
            ]
            self.dense = torch.stack(shares, dim=1)  # (N, K, G, G)
        self.mean = 255 * torch.tensor(mean).view(1, -1, 1, 1)
        self.std = 255 * torch.tensor(std).view(1, -1, 1, 1)
        self.seed, self.augment = seed, augment
        self._target = target
        self._epoch, self._codes = -1, torch.empty(0)

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int | Draw) -> tuple[Tensor, ...]:
        """One sample, without the dimension of the batch."""
        return tuple(part[0] for part in self.__getitems__([index]))

    def __getitems__(self, places: Sequence[int | Draw]) -> tuple[Tensor, ...]:
        draws = [place for place in places if isinstance(place, Draw)]
        indices = torch.tensor([draw.sample for draw in draws] if draws else list(places))
        parts = [self.images[indices]]
        targets = self.targets[indices]
        if self._target == "semantic":
            parts.append(targets.unsqueeze(1))
        if self.dense is not None:
            parts.append(self.dense[indices])
        if draws and self.augment:
            codes = self._codes_of(draws)
            parts = [dihedral(part, codes) for part in parts]
        images = parts.pop(0).float().sub_(self.mean).div_(self.std)
        if self._target == "semantic":
            targets = parts.pop(0).squeeze(1).long()
        return images, targets, *(part.permute(0, 2, 3, 1) for part in parts)

    def _codes_of(self, draws: Sequence[Draw]) -> Tensor:
        """Which turn each draw has, from one table an epoch."""
        if self._epoch != draws[0].epoch:
            self._epoch = draws[0].epoch
            # 1: another stream than that of the sampler, which has the same seed
            generator = torch.Generator().manual_seed(seed_of(self.seed, self._epoch, 1))
            self._codes = torch.randint(8, (len(self),), generator=generator)
        return self._codes[[draw.position for draw in draws]]
