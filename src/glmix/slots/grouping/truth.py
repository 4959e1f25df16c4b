"""Images with ground truth at the size of the model input: generated scenes, or images with masks from disk."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ...data.scenes import SceneConfig, Split, draw_scene
from ...data.segmentation.files import IGNORE, MaskFiles

__all__ = ["Truth", "scene_truths", "truths_on_disk"]

Ints = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Truth:
    """An image and its ground truth.

    Args:
        name: name of the image.
        image: (H, W, 3), uint8.
        regions: (H, W): objects and the background as separate regions, or classes if there are no object instances; -1
            where unknown.
        objects: (H, W): object number from 1, 0 for the background and -1 where unknown. None without object instances.
        foreground: (H, W): 1 on objects of any class, 0 on the background, -1 where unknown. None without a background
            class.
    """

    name: str
    image: NDArray[np.uint8]
    regions: Ints
    objects: Ints | None
    foreground: Ints | None


def scene_truths(config: SceneConfig, split: Split, count: int) -> Iterator[Truth]:
    """Generate the first scenes of a split."""
    for index in range(count):
        scene = draw_scene(config, split, index)
        objects = scene.instances.astype(np.int64)
        yield Truth(f"{split} {index}", scene.image, objects, objects, (objects > 0).astype(np.int64))


def truths_on_disk(
    files: MaskFiles, size: int, count: int | None = None, failed: Callable[[str, Exception], object] | None = None
) -> Iterator[Truth]:
    """Read images with masks, resized so that the shorter side has `size` pixels.

    Args:
        files: see `open_masks`. The first class is the background if it has this name.
        size: pixels of the shorter side.
        count: number of images, evenly spaced; None for all.
        failed: called with the name and the error of an image that cannot be read, which is then skipped. None raises
            the error.
    """
    total = len(files) if count is None else min(count, len(files))
    for k in range(total):
        index = k * len(files) // total
        try:
            yield _read(files, index, size)
        except (OSError, ValueError) as error:
            if failed is None:
                raise
            failed(files.name(index), error)


def _read(files: MaskFiles, index: int, size: int) -> Truth:
    """Read and resize one image with its ground truth."""
    image = files.image(index)
    shorter = min(image.size)
    width, height = (max(1, math.floor(side * size / shorter + 0.5)) for side in image.size)

    def resize(mask: NDArray[np.uint8]) -> Ints:
        resized = Image.fromarray(mask).resize((width, height), Image.Resampling.NEAREST)
        ids = np.asarray(resized).astype(np.int64)
        return np.where(ids == IGNORE, -1, ids)

    classes = resize(files.mask(index))
    instances = files.instances(index)
    objects = None if instances is None else resize(instances)
    return Truth(
        name=files.name(index),
        image=np.asarray(image.resize((width, height), Image.Resampling.BICUBIC)),
        regions=classes if objects is None else objects,
        objects=objects,
        foreground=np.where(classes > 0, 1, classes) if files.class_names[0] == "background" else None,
    )
