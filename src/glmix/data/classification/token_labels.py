"""Dense labels for token labelling, in the format of the public `label_top5_train_nfnet`.

For every image `train/CLASS/NAME.JPEG` there is a file `CLASS/NAME.pt` with a float16 tensor (2, 5, h, w): the five
highest scores in each cell of a coarse grid over the image, and their classes. Half precision represents class numbers
up to 2048 exactly.

    S  stored scores per cell, 5      K  classes      h w  stored grid      G  cells per side of the labels of a batch
"""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image
from timm.data.transforms import RandomResizedCropAndInterpolation
from torch import Tensor
from torchvision import transforms
from torchvision.ops import roi_align
from torchvision.transforms import functional

from ...errors import InputError
from ..scenes import SceneConfig, Split, draw_scene
from .transforms import TransformConfig

__all__ = ["Extent", "Scores", "TokenLabelTransform", "TokenLabels", "save_label_map", "write_scene_label_maps"]

Scores = Literal["probabilities", "logits"]
Extent = Literal["image", "square"]
Box = tuple[float, float, float, float]  # left, top, right, bottom, relative to the stored grid
KEPT = 5


class TokenLabels:
    """Reader of the label maps of images.

    Args:
        root: folder with one subfolder per class.
        num_classes: number of classes K.
        grid: cells per side of the dense labels, G.
        scores: `probabilities` or `logits` in the files. Logits get a softmax over the stored scores.
        smoothing: label smoothing.
        extent: area that the stored grid covers: the whole `image`, or the central `square` of a resize and centre
            crop. Published recipes use `image`.
    """

    def __init__(
        self,
        root: str | os.PathLike[str],
        num_classes: int,
        *,
        grid: int = 7,
        scores: Scores = "probabilities",
        smoothing: float = 0.1,
        extent: Extent = "image",
    ) -> None:
        self.root = Path(root)
        if not self.root.is_dir():
            raise FileNotFoundError(f"There is no folder of label maps at {self.root}.")
        if grid < 1:
            raise InputError(f"grid must be at least 1 cell per side, got {grid}.")
        if not 0 <= smoothing < 1:
            raise InputError(f"smoothing must be from 0 to below 1, got {smoothing}.")
        self.num_classes, self.grid, self.scores, self.extent = num_classes, grid, scores, extent
        self.smoothing = smoothing

    def path_of(self, image: str) -> Path:
        """Return the label map file of an image: the same class folder and name, with the suffix `.pt`."""
        path = Path(image)
        return self.root / path.parent.name / f"{path.stem}.pt"

    def check(self, images: Sequence[str]) -> None:
        """Raise FileNotFoundError if an image has no label map, and InputError if the first label map is invalid."""
        existing = {
            (folder.name, Path(entry.name).stem)
            for folder in os.scandir(self.root)
            if folder.is_dir()
            for entry in os.scandir(folder.path)
            if entry.name.endswith(".pt")
        }
        missing = [image for image in images if (Path(image).parent.name, Path(image).stem) not in existing]
        if missing:
            raise FileNotFoundError(
                f"{len(missing)} of {len(images)} images have no label map under {self.root}: the first is "
                f"{missing[0]}, which needs {self.path_of(missing[0])}."
            )
        self.load(images[0])

    def load(self, image: str) -> Tensor:
        """Return the label map of an image as float32 (2, S, h, w): probabilities and their classes."""
        path = self.path_of(image)
        try:
            stored = torch.load(path, map_location="cpu", weights_only=True)
        except FileNotFoundError:
            raise FileNotFoundError(f"The image {image} has no label map: there is no {path}.") from None
        if not isinstance(stored, Tensor) or stored.ndim != 4 or len(stored) != 2:
            found = tuple(stored.shape) if isinstance(stored, Tensor) else type(stored).__name__
            raise InputError(f"{path} is not a label map: it must contain a tensor (2, 5, h, w), got {found}.")
        stored = stored.float()
        values, classes = stored
        if classes.max() >= self.num_classes or classes.min() < 0:
            raise InputError(
                f"{path} has the class {int(classes.max())}, but there are {self.num_classes} classes: they must be "
                "the classes of the data."
            )
        if self.scores == "logits":
            stored[0] = values.softmax(0)
        elif values.min() < 0 or values.max() > 1.01:
            raise InputError(
                f"{path} has scores from {values.min():.3g} to {values.max():.3g}, which are not probabilities: if "
                "they are logits, set scores to logits."
            )
        return stored

    def dense(self, stored: Tensor, box: Box, hflip: bool = False, vflip: bool = False) -> Tensor:
        """Return the dense labels (G, G, K) of a crop of the image. Each cell is the mean over its area.

        The K values of a cell sum to at most 1: scores that are not stored and areas outside the grid are missing.

        Args:
            stored: label map from `load`.
            box: crop, relative to the stored grid.
            hflip: flip left-right.
            vflip: flip up-down.
        """
        values, classes = stored
        height, width = values.shape[1:]
        # pool only the classes that occur, a small fraction of all classes
        present, places = classes.long().unique(return_inverse=True)
        maps = values.new_zeros(len(present), height, width).scatter_add_(0, places, values)
        left, top, right, bottom = box
        corners = values.new_tensor([[0, left * width, top * height, right * width, bottom * height]])
        pooled = roi_align(maps.unsqueeze(0), corners, self.grid, aligned=True)[0]
        flips = [axis for axis, flip in ((1, vflip), (2, hflip)) if flip]
        dense = values.new_zeros(self.grid, self.grid, self.num_classes)
        dense[..., present] = pooled.flip(flips).permute(1, 2, 0)
        return dense * (1 - self.smoothing) + self.smoothing / self.num_classes

    def box_of(self, size: tuple[int, int], crop: tuple[int, int, int, int]) -> Box:
        """Return the box of a crop (top, left, height, width) of an image (width, height), relative to the grid."""
        full_width, full_height = size
        top, left, height, width = crop
        if self.extent == "square":
            side = min(size)
            left, top = left - (full_width - side) // 2, top - (full_height - side) // 2
            full_width = full_height = side
        return left / full_width, top / full_height, (left + width) / full_width, (top + height) / full_height


class TokenLabelTransform:
    """Training transform of an image and its dense labels: crop and flips are applied to both.

    It draws the same random numbers as the transform without labels, so that both give the same images.
    """

    def __init__(self, config: TransformConfig, labels: TokenLabels) -> None:
        self.labels = labels
        self.geometry, self.rest = config.train_in_parts()

    def __call__(self, image: Image.Image, stored: Tensor) -> tuple[Tensor, Tensor]:
        box: Box = (0.0, 0.0, 1.0, 1.0)
        flips = {transforms.RandomHorizontalFlip: False, transforms.RandomVerticalFlip: False}
        for step in self.geometry.transforms:
            if isinstance(step, RandomResizedCropAndInterpolation):
                crop = step.get_params(image, step.scale, step.ratio)
                box = self.labels.box_of(image.size, crop)
                image = functional.resized_crop(image, *crop, list(step.size), _resampling(step))
            elif type(step) in flips:
                if torch.rand(1) < step.p:
                    flips[type(step)] = True
                    image = image.transpose(_MIRROR[type(step)])
            else:
                raise TypeError(f"Dense labels do not support {type(step).__name__}, only RandomResizedCrop and flips.")
        hflip, vflip = flips.values()
        return self.rest(image), self.labels.dense(stored, box, hflip, vflip)


_MIRROR: dict[type, Any] = {
    transforms.RandomHorizontalFlip: Image.Transpose.FLIP_LEFT_RIGHT,
    transforms.RandomVerticalFlip: Image.Transpose.FLIP_TOP_BOTTOM,
}


def _resampling(step: Any) -> Any:
    """Return the interpolation of timm's crop, drawn at random like in timm if there are several."""
    import random

    return random.choice(step.interpolation) if isinstance(step.interpolation, tuple | list) else step.interpolation


def save_label_map(path: str | os.PathLike[str], shares: Tensor) -> None:
    """Write a label map file.

    Args:
        path: file to write. Missing folders are created.
        shares: share of each class in each cell (K, h, w).

    Raises:
        InputError: if there are more than 2048 classes.
    """
    if shares.ndim != 3 or len(shares) > 2048:
        raise InputError(f"shares must have the shape (K, h, w) with K of at most 2048, got {tuple(shares.shape)}.")
    if len(shares) < KEPT:
        shares = torch.cat([shares, shares.new_zeros(KEPT - len(shares), *shares.shape[1:])])
    values, classes = shares.topk(KEPT, dim=0)
    classes = torch.where(values > 0, classes, 0)  # the class of a zero score might not exist
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    torch.save(torch.stack([values.half(), classes.half()]), path)


def write_scene_label_maps(
    root: str | os.PathLike[str], config: SceneConfig, split: Split, count: int, grid: int = 16
) -> None:
    """Write label maps from the exact masks for the images of `write_scenes` with the layout `imagefolder`."""
    names = [f"{k:02d}_{name}" for k, name in enumerate(config.class_names)]
    for index in range(count):
        scene = draw_scene(config, split, index)
        mask = torch.from_numpy(scene.semantic.astype(np.int64))
        shown = torch.stack([(mask == k + 1).float() for k in range(config.num_classes)])
        shares = torch.nn.functional.adaptive_avg_pool2d(shown, grid)
        save_label_map(Path(root, names[int(scene.labels[0])], f"{index:08d}.pt"), shares)
