"""In-memory data set of scenes that gathers, augments and normalises whole batches."""

from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from ...errors import InputError
from ..core.sampling import Draw, seed_of
from . import SceneConfig, Split, draw_scene

__all__ = ["SceneTarget", "SceneTensors", "dihedral"]

SceneTarget = Literal["label", "labels", "semantic"]


def dihedral(x: Tensor, codes: Tensor) -> Tensor:
    """Apply one of the eight rotations and flips of the square to each image.

    Args:
        x: images (B, C, S, S).
        codes: index of the transform of each image (B,), from 0 to 7.
    """
    size = x.shape[-1]
    indices = torch.arange(size * size).view(size, size)
    rotations = [torch.rot90(indices, quarter) for quarter in range(4)]
    # (8, S * S)
    table = torch.stack([grid.reshape(-1) for rotation in rotations for grid in (rotation, rotation.flip(1))])
    index = table[codes].unsqueeze(1).expand(-1, x.shape[1], -1)  # (B, C, S * S)
    return x.flatten(2).gather(2, index).view_as(x)


class SceneTensors(Dataset[tuple[Tensor, ...]]):
    """Data set of the first scenes of a split, drawn once and kept in memory. It returns collated batches.

    Samples that are indexed with a `Draw` are rotated and flipped as a function of (seed, epoch, position). Samples
    that are indexed with an integer are not augmented.

    Args:
        config: configuration of the scenes.
        split: `train`, `val` or `test`.
        length: number of scenes.
        target: `label`: the class (B,), for scenes of one object. `labels`: 1 for present classes (B, K). `semantic`:
            class + 1 at each pixel (B, S, S), 0 for the background, augmented with the image.
        mean: mean of each channel, for values from 0 to 1.
        std: standard deviation of each channel, for values from 0 to 1.
        seed: seed of the augmentation.
        augment: whether draws are augmented.
        grid: cells per side of the dense labels (B, grid, grid, K), the third element of a batch: the fraction of the
            pixels of a cell in each class, without the background. None for no dense labels.
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

    def sample_name(self, index: int) -> str:
        """Return the name of a scene."""
        return f"scene {index}"

    def sample_picture(self, index: int) -> Image.Image:
        """Return a scene as an image."""
        return Image.fromarray(self.images[index].permute(1, 2, 0).numpy())

    def __getitem__(self, index: int | Draw) -> tuple[Tensor, ...]:
        """Return one sample, without the batch dimension."""
        return tuple(part[0] for part in self.__getitems__([index]))

    def __getitems__(self, keys: Sequence[int | Draw]) -> tuple[Tensor, ...]:
        draws = [key for key in keys if isinstance(key, Draw)]
        indices = torch.tensor([draw.sample for draw in draws] if draws else list(keys))
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
        """Return the rotation and flip of each draw, from one table per epoch."""
        if self._epoch != draws[0].epoch:
            self._epoch = draws[0].epoch
            # stream 1 is independent of the random stream of the sampler, which has the same seed
            generator = torch.Generator().manual_seed(seed_of(self.seed, self._epoch, 1))
            self._codes = torch.randint(8, (len(self),), generator=generator)
        return self._codes[[draw.position for draw in draws]]
