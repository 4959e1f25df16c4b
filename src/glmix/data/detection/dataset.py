"""Data set of images and detection targets, from a COCO JSON or from scenes."""

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
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
    """Interface of indexed images and targets.

    A target has image_id, size (height, width), boxes (n, 4), labels, area, iscrowd and the data that `masks` and
    `rles` need.
    """

    def __len__(self) -> int: ...

    def name(self, index: int) -> str: ...

    def image(self, index: int) -> Tensor:
        """Load an image, uint8 (3, H, W)."""
        ...

    def target(self, index: int) -> dict[str, Any]: ...

    def masks(self, target: dict[str, Any], chosen: Sequence[int]) -> Tensor:
        """Return the masks of the chosen objects, uint8 (n, H, W)."""
        ...

    def rles(self, target: dict[str, Any]) -> list[dict[str, Any]]:
        """Return the compressed RLE of every object."""
        ...


class CocoSource:
    """The images and targets of a COCO JSON."""

    def __init__(self, files: CocoFiles) -> None:
        self.files = files

    def __len__(self) -> int:
        return len(self.files)

    def name(self, index: int) -> str:
        return self.files.name(index)

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
    """Scenes as images and targets, with labels from 1."""

    def __init__(self, scenes: SceneDataset) -> None:
        self.scenes = scenes

    def __len__(self) -> int:
        return len(self.scenes)

    def name(self, index: int) -> str:
        return f"scene {index}"

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
    """Images and targets, indexed by a `Draw` in training and by a number in evaluation.

    Images are uint8 (3, H, W). Training targets have boxes, labels and optionally masks, without crowds and without
    boxes of no area; they depend only on the `Draw`. Evaluation images are not resized, and their targets have all
    annotations, with masks as RLE in `rles`.

    Args:
        source: the images and targets.
        transform: transform of training images and targets.
        masks: include masks in the targets.
        indices: the images of the source to use; None for all.
        seed: seed of the augmentation.
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

    def sample_name(self, item: int) -> str:
        """Return the file name of an image, or the name of a scene."""
        return self.source.name(int(self.indices[item]))

    def sample_picture(self, item: int) -> Image.Image:
        """Return an image without transforms."""
        return Image.fromarray(self.source.image(int(self.indices[item])).permute(1, 2, 0).numpy())

    def __getitem__(self, item: int | Draw) -> tuple[Tensor, dict[str, Any]]:
        index = int(self.indices[item.sample if isinstance(item, Draw) else item])
        image, target = self.source.image(index), self.source.target(index)
        if isinstance(item, Draw):
            # stream 2 is independent of the random streams for the sample order and for the scenes
            with seeded(self.seed, item.epoch, item.position, 2):
                return self._training_sample(image, target)
        eval_target = {name: target[name] for name in ("image_id", "size")}
        eval_target |= {name: torch.from_numpy(target[name]) for name in ("boxes", "labels", "area", "iscrowd")}
        if self.with_masks:
            eval_target["rles"] = self.source.rles(target)
        return image, eval_target

    def _training_sample(self, image: Tensor, target: dict[str, Any]) -> tuple[Tensor, dict[str, Any]]:
        height, width = target["size"]
        corners = target["boxes"].clip(0, (width, height, width, height))
        chosen = np.flatnonzero((target["iscrowd"] == 0) & (corners[:, 2:] > corners[:, :2]).all(1))
        boxes = tv_tensors.BoundingBoxes(
            torch.from_numpy(corners[chosen]).float(),
            format=tv_tensors.BoundingBoxFormat.XYXY,
            canvas_size=(height, width),
        )
        sample = {"boxes": boxes, "labels": torch.from_numpy(target["labels"][chosen])}
        if self.with_masks:
            sample["masks"] = tv_tensors.Mask(self.source.masks(target, chosen.tolist()))
        pixels, sample = self.transform(tv_tensors.Image(image), sample)
        return pixels.as_subclass(Tensor), {name: value.as_subclass(Tensor) for name, value in sample.items()}


def collate_objects(samples: Sequence[tuple[Tensor, dict[str, Any]]]) -> tuple[list[Tensor], list[dict[str, Any]]]:
    """Return images and targets as two lists, because image sizes and numbers of objects differ."""
    images, targets = zip(*samples, strict=True)
    return list(images), list(targets)
