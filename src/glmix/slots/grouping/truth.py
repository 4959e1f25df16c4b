"""Images with what is known about them, at the size at which a network looks at them: scenes, or masks on disk."""

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
    """An image and its regions.

    Args:
        name: of the image.
        image: (H, W, 3), uint8.
        regions: (H, W): objects and the background, each a region, or where objects are not told apart, classes; -1
            where nothing is known.
        objects: (H, W): the number of the object from 1, 0 for the background and -1 where nothing is known; None where
            objects are not told apart.
        foreground: (H, W): 1 on objects of any class, 0 on the background, -1 where nothing is known; None where there
            is no background.
    """

    name: str
    image: NDArray[np.uint8]
    regions: Ints
    objects: Ints | None
    foreground: Ints | None


def scene_truths(config: SceneConfig, split: Split, count: int) -> Iterator[Truth]:
    """The first scenes of a split, as they are drawn."""
    for index in range(count):
        scene = draw_scene(config, split, index)
        objects = scene.instances.astype(np.int64)
        yield Truth(f"{split} {index}", scene.image, objects, objects, (objects > 0).astype(np.int64))


def truths_on_disk(
    files: MaskFiles, size: int, count: int | None = None, failed: Callable[[str, Exception], object] | None = None
) -> Iterator[Truth]:
    """Images of a folder of masks, resized so that their shorter side has `size` pixels.

    Args:
        files: see `open_masks`. There is a background if the first class is named so.
        count: of images, at equal distances; None for all.
        failed: is told the name and the error of an image that cannot be read, which is then left out; None raises it.
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
    image = files.image(index)
    shorter = min(image.size)
    width, height = (max(1, math.floor(side * size / shorter + 0.5)) for side in image.size)

    def fitted(mask: NDArray[np.uint8]) -> Ints:
        resized = Image.fromarray(mask).resize((width, height), Image.Resampling.NEAREST)
        ids = np.asarray(resized).astype(np.int64)
        return np.where(ids == IGNORE, -1, ids)

    classes = fitted(files.mask(index))
    numbered = files.instances(index)
    objects = None if numbered is None else fitted(numbered)
    return Truth(
        name=files.name(index),
        image=np.asarray(image.resize((width, height), Image.Resampling.BICUBIC)),
        regions=classes if objects is None else objects,
        objects=objects,
        foreground=np.where(classes > 0, 1, classes) if files.class_names[0] == "background" else None,
    )
