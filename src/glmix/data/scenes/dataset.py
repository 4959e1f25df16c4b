"""Map-style data set of scenes, with a target format for each task."""

import operator
from collections.abc import Callable, Sequence
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset
from torchvision import tv_tensors

from ...errors import InputError
from ..core.splits import Split
from .draw import Scene, SceneConfig, draw_scene

__all__ = ["SceneDataset", "Target", "collate_instances"]

Target = Literal["label", "labels", "semantic", "instances"]


class SceneDataset(Dataset[tuple[Any, Any]]):
    """Data set of (image, target) pairs. The image is a uint8 `tv_tensors.Image` (3, H, W).

    Args:
        config: configuration of the scenes.
        split: `train`, `val` or `test`. Splits have no common scenes.
        length: number of scenes.
        target: `label`: the class from 0, an int, for scenes of one object. `labels`: a float tensor (num_classes,)
            with 1 for present classes. `semantic`: a Mask (H, W) of int64 with class + 1 on objects and 0 on the
            background. `instances`: a dictionary in the format of torchvision's detectors, with labels of class + 1.
        transform: transform of the image.
        transforms: joint transform of image and target, such as those of `torchvision.transforms.v2`.
        cache: keep drawn scenes in memory, about 16 kB each at 64 pixels. Every worker process has its own cache
            unless `preload` was called before the workers start.
    """

    def __init__(
        self,
        config: SceneConfig,
        split: Split,
        length: int,
        *,
        target: Target = "label",
        transform: Callable[[Any], Any] | None = None,
        transforms: Callable[[Any, Any], tuple[Any, Any]] | None = None,
        cache: bool = False,
    ) -> None:
        if split not in get_args(Split):
            raise InputError(f"split must be one of {', '.join(get_args(Split))}, got {split!r}.")
        if length < 1:
            raise InputError(f"length must be at least 1, got {length}.")
        if target not in _TARGETS:
            raise InputError(f"target must be one of {', '.join(_TARGETS)}, got {target!r}.")
        if target == "label" and not config.single:
            raise InputError(
                f"The target 'label' needs scenes of one object, objects=(1, 1), got {config.objects}; "
                "'labels' supports any number of objects."
            )
        if transform is not None and transforms is not None:
            raise InputError("Set transform (image only) or transforms (image and target), not both.")
        self.config = config
        self.split: Split = split
        self.length = length
        self.target: Target = target
        self.transform = transform
        self.transforms = transforms
        self.cache: dict[int, Scene] | None = {} if cache else None

    def __len__(self) -> int:
        return self.length

    def scene(self, index: int) -> Scene:
        """Return a scene with all its labels."""
        index = operator.index(index)
        if not 0 <= index < self.length:
            raise IndexError(f"Scene {index} of a data set with {self.length} scenes is out of range.")
        if self.cache is None:
            return draw_scene(self.config, self.split, index)
        if index not in self.cache:
            self.cache[index] = draw_scene(self.config, self.split, index)
        return self.cache[index]

    def preload(self) -> None:
        """Draw all scenes into the cache."""
        if self.cache is None:
            raise InputError("The data set has no cache: build it with cache=True to preload scenes.")
        for index in range(self.length):
            self.scene(index)

    def __getitem__(self, index: int) -> tuple[Any, Any]:
        scene = self.scene(index)
        # a copy, so that in-place operations do not change the cache
        image: Any = tv_tensors.Image(torch.from_numpy(scene.image.transpose(2, 0, 1).copy()))
        target = _TARGETS[self.target](scene, self.config, index)
        if self.transform is not None:
            image = self.transform(image)
        if self.transforms is not None:
            image, target = self.transforms(image, target)
        return image, target


def collate_instances(batch: Sequence[tuple[Any, Any]]) -> tuple[Tensor, list[Any]]:
    """Collate images to one tensor and targets to a list, because their numbers of objects differ."""
    images, targets = zip(*batch, strict=True)
    return torch.stack(images), list(targets)


def _label(scene: Scene, config: SceneConfig, index: int) -> int:
    return int(scene.labels[0])


def _labels(scene: Scene, config: SceneConfig, index: int) -> Tensor:
    present = torch.zeros(config.num_classes)
    present[torch.from_numpy(scene.labels)] = 1
    return present


def _semantic(scene: Scene, config: SceneConfig, index: int) -> tv_tensors.Mask:
    return tv_tensors.Mask(torch.from_numpy(scene.semantic.astype(np.int64)))


def _instances(scene: Scene, config: SceneConfig, index: int) -> dict[str, Any]:
    boxes = torch.from_numpy(scene.boxes.astype(np.float32))
    size = (config.size, config.size)
    return {
        "boxes": tv_tensors.BoundingBoxes(boxes, format=tv_tensors.BoundingBoxFormat.XYXY, canvas_size=size),
        "labels": torch.from_numpy(scene.labels + 1),
        "masks": tv_tensors.Mask(torch.from_numpy(scene.masks.astype(np.uint8))),
        "area": torch.from_numpy(scene.areas.astype(np.float32)),
        "iscrowd": torch.zeros(len(scene.labels), dtype=torch.int64),
        "image_id": index,
    }


_TARGETS: dict[Target, Callable[[Scene, SceneConfig, int], Any]] = {
    "label": _label,
    "labels": _labels,
    "semantic": _semantic,
    "instances": _instances,
}
