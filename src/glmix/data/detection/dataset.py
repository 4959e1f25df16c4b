"""Images with their objects, from files or scenes, as detectors take them: augmented to train, whole to judge."""

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset
from torchvision import tv_tensors
from torchvision.transforms.v2.functional import pil_to_tensor

from ..core.sampling import Draw, seeded
from ..scenes import SceneDataset
from .files import CocoFiles
from .rle import decode_segmentation, encode_mask, to_rle

__all__ = ["CocoSource", "DetectionSamples", "ObjectSource", "SceneSource", "collate_objects"]

Transform = Callable[[Any, dict[str, Any]], tuple[Any, dict[str, Any]]]


class ObjectSource(Protocol):
    """Images with their objects. A target has image_id, size (height, width), boxes (n, 4), labels, area, iscrowd and
    what `masks` and `rles` read."""

    def __len__(self) -> int: ...

    def image(self, index: int) -> Tensor:
        """(3, H, W), uint8."""
        ...

    def target(self, index: int) -> dict[str, Any]: ...

    def masks(self, target: dict[str, Any], chosen: Sequence[int]) -> Tensor:
        """(n, H, W) of the chosen objects, uint8."""
        ...

    def rles(self, target: dict[str, Any]) -> list[dict[str, Any]]:
        """Compressed run lengths of all objects."""
        ...


class CocoSource:
    """The images of a COCO JSON."""

    def __init__(self, files: CocoFiles) -> None:
        self.files = files

    def __len__(self) -> int:
        return len(self.files)

    def image(self, index: int) -> Tensor:
        pixels: Tensor = pil_to_tensor(self.files.image(index))
        return pixels

    def target(self, index: int) -> dict[str, Any]:
        return self.files.target(index)

    def masks(self, target: dict[str, Any], chosen: Sequence[int]) -> Tensor:
        height, width = target["size"]
        masks = [decode_segmentation(target["segmentations"][k], height, width) for k in chosen]
        return torch.from_numpy(np.stack(masks)) if masks else torch.zeros(0, height, width, dtype=torch.uint8)

    def rles(self, target: dict[str, Any]) -> list[dict[str, Any]]:
        return [to_rle(segmentation, *target["size"]) for segmentation in target["segmentations"]]


class SceneSource:
    """Scenes, whose labels count from 1."""

    def __init__(self, scenes: SceneDataset) -> None:
        self.scenes = scenes

    def __len__(self) -> int:
        return len(self.scenes)

    def image(self, index: int) -> Tensor:
        return torch.from_numpy(self.scenes.scene(index).image.transpose(2, 0, 1).copy())

    def target(self, index: int) -> dict[str, Any]:
        scene = self.scenes.scene(index)
        return {
            "image_id": index,
            "size": scene.instances.shape,
            "boxes": scene.boxes.astype(np.float64),
            "labels": scene.labels + 1,
            "area": scene.areas.astype(np.float64),
            "iscrowd": np.zeros(len(scene.labels), np.int64),
            "instances": scene.instances,
        }

    def masks(self, target: dict[str, Any], chosen: Sequence[int]) -> Tensor:
        numbers = np.array(chosen, np.uint8).reshape(-1, 1, 1) + 1
        return torch.from_numpy((target["instances"] == numbers).astype(np.uint8))

    def rles(self, target: dict[str, Any]) -> list[dict[str, Any]]:
        return [encode_mask(mask.numpy()) for mask in self.masks(target, range(len(target["labels"])))]


class DetectionSamples(Dataset[tuple[Tensor, dict[str, Any]]]):
    """Image and target for a draw of training or an index of evaluation; what a draw gives depends on it alone.

    An image is (3, H, W), uint8. Targets of training have boxes, labels and, if asked for, masks of the objects that
    are no crowd and have an area; those of evaluation have everything, masks as run lengths `rles`, unresized.

    Args:
        source: the images.
        transform: of training.
        masks: whether there are any.
        indices: the images of the source to use; None for all.
        seed: of the augmentation.
    """

    def __init__(
        self,
        source: ObjectSource,
        transform: Transform,
        *,
        masks: bool,
        indices: NDArray[np.int64] | None = None,
        seed: int = 0,
    ) -> None:
        self.source, self.transform, self.with_masks, self.seed = source, transform, masks, seed
        self.indices = np.arange(len(source)) if indices is None else indices

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, place: int | Draw) -> tuple[Tensor, dict[str, Any]]:
        index = int(self.indices[place.sample if isinstance(place, Draw) else place])
        image, target = self.source.image(index), self.source.target(index)
        if isinstance(place, Draw):
            # 2: another stream than those of the order and of the scenes
            with seeded(self.seed, place.epoch, place.position, 2):
                return self._train(image, target)
        found = {name: target[name] for name in ("image_id", "size")}
        found |= {name: torch.from_numpy(target[name]) for name in ("boxes", "labels", "area", "iscrowd")}
        if self.with_masks:
            found["rles"] = self.source.rles(target)
        return image, found

    def _train(self, image: Tensor, target: dict[str, Any]) -> tuple[Tensor, dict[str, Any]]:
        height, width = target["size"]
        corners = target["boxes"].clip(0, (width, height, width, height))
        chosen = np.flatnonzero((target["iscrowd"] == 0) & (corners[:, 2:] > corners[:, :2]).all(1))
        boxes = tv_tensors.BoundingBoxes(
            torch.from_numpy(corners[chosen]).float(),
            format=tv_tensors.BoundingBoxFormat.XYXY,
            canvas_size=(height, width),
        )
        wanted = {"boxes": boxes, "labels": torch.from_numpy(target["labels"][chosen])}
        if self.with_masks:
            wanted["masks"] = tv_tensors.Mask(self.source.masks(target, chosen.tolist()))
        pixels, wanted = self.transform(tv_tensors.Image(image), wanted)
        return pixels.as_subclass(Tensor), {k: part.as_subclass(Tensor) for k, part in wanted.items()}


def collate_objects(samples: Sequence[tuple[Tensor, dict[str, Any]]]) -> tuple[list[Tensor], list[dict[str, Any]]]:
    """Images and targets in lists, for they differ in size and in their number of objects."""
    images, targets = zip(*samples, strict=True)
    return list(images), list(targets)
