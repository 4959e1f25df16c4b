"""Dense labels for token labelling, in the layout of the public `label_top5_train_nfnet`.

For every image `train/CLASS/NAME.JPEG` there is a file `CLASS/NAME.pt`, a tensor (2, 5, h, w) of float16: the five
highest scores at each place of a coarse grid over the image, and the classes which they belong to. Half precision
holds class numbers up to 2048 exactly.

    S  scores kept at a place, 5      K  classes      h w  the stored grid      G  cells a side of a batch's labels
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
Box = tuple[float, float, float, float]  # left, top, right, bottom, as shares of the stored grid
KEPT = 5


class TokenLabels:
    """Finds, checks and reads the label maps of images.

    Args:
        root: folder that holds a folder a class.
        num_classes: K.
        grid: G.
        scores: what the files hold; of logits the softmax over the kept ones is taken.
        smoothing: share of a label that is spread evenly over all classes.
        extent: what the stored grid covers: the whole `image`, or the central `square` that a resize and centre crop
            left of it. Published recipes read their maps the first way.
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
            raise InputError(f"The grid of dense labels needs at least 1 cell a side, got {grid}.")
        if not 0 <= smoothing < 1:
            raise InputError(f"smoothing must be from 0 to below 1, got {smoothing}.")
        self.num_classes, self.grid, self.scores, self.extent = num_classes, grid, scores, extent
        self.smoothing = smoothing

    def path_of(self, image: str) -> Path:
        """The label map of an image: the same folder of its class, the same name, another suffix."""
        path = Path(image)
        return self.root / path.parent.name / f"{path.stem}.pt"

    def check(self, images: Sequence[str]) -> None:
        """Raise FileNotFoundError if any image has no label map, and ValueError if the first map is none."""
        have = {
            (folder.name, Path(entry.name).stem)
            for folder in os.scandir(self.root)
            if folder.is_dir()
            for entry in os.scandir(folder.path)
            if entry.name.endswith(".pt")
        }
        missing = [image for image in images if (Path(image).parent.name, Path(image).stem) not in have]
        if missing:
            raise FileNotFoundError(
                f"{len(missing)} of {len(images)} images have no label map under {self.root}: the first is "
                f"{missing[0]}, which needs {self.path_of(missing[0])}."
            )
        self.load(images[0])

    def load(self, image: str) -> Tensor:
        """(2, S, h, w) of float32: probabilities, and the classes that they belong to."""
        path = self.path_of(image)
        try:
            stored = torch.load(path, map_location="cpu", weights_only=True)
        except FileNotFoundError:
            raise FileNotFoundError(f"The image {image} has no label map: there is no {path}.") from None
        if not isinstance(stored, Tensor) or stored.ndim != 4 or len(stored) != 2:
            found = tuple(stored.shape) if isinstance(stored, Tensor) else type(stored).__name__
            raise InputError(f"{path} is no label map: it must hold a tensor (2, 5, h, w), got {found}.")
        stored = stored.float()
        values, classes = stored
        if classes.max() >= self.num_classes or classes.min() < 0:
            raise InputError(
                f"{path} speaks of class {int(classes.max())}, but there are {self.num_classes}: they must be the "
                "classes of the data."
            )
        if self.scores == "logits":
            stored[0] = values.softmax(0)
        elif values.min() < 0 or values.max() > 1.01:
            raise InputError(
                f"{path} holds scores from {values.min():.3g} to {values.max():.3g}, which are no probabilities: if "
                "they are logits, say so (token_scores: logits)."
            )
        return stored

    def dense(self, stored: Tensor, box: Box, hflip: bool = False, vflip: bool = False) -> Tensor:
        """(G, G, K): the labels of a part of the image, each cell the mean of what it covers.

        A row of K sums to at most one: what is missing are the scores that were not kept and what lies outside.
        """
        values, classes = stored
        height, width = values.shape[1:]
        # only the classes that appear are pooled: they are few of many
        present, places = classes.long().unique(return_inverse=True)
        maps = values.new_zeros(len(present), height, width).scatter_add_(0, places, values)
        left, top, right, bottom = box
        corners = values.new_tensor([[0, left * width, top * height, right * width, bottom * height]])
        pooled = roi_align(maps.unsqueeze(0), corners, self.grid, aligned=True)[0]
        flips = [axis for axis, flip in ((1, vflip), (2, hflip)) if flip]
        dense = values.new_zeros(self.grid, self.grid, self.num_classes)
        dense[..., present] = pooled.flip(flips).permute(1, 2, 0)
        return dense * (1 - self.smoothing) + self.smoothing / self.num_classes

    def share(self, size: tuple[int, int], crop: tuple[int, int, int, int]) -> Box:
        """A crop (top, left, height, width) of an image (width, height), as shares of what the grid covers."""
        across, down = size
        top, left, height, width = crop
        if self.extent == "square":
            side = min(size)
            left, top = left - (across - side) // 2, top - (down - side) // 2
            across = down = side
        return left / across, top / down, (left + width) / across, (top + height) / down


class TokenLabelTransform:
    """The transform of training that takes dense labels along: crop and flips move them with the image.

    It draws as the transform for images alone does, so that both see the same crops.
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
                box = self.labels.share(image.size, crop)
                image = functional.resized_crop(image, *crop, list(step.size), _resampling(step))
            elif type(step) in flips:
                if torch.rand(1) < step.p:
                    flips[type(step)] = True
                    image = image.transpose(_MIRROR[type(step)])
            else:
                raise TypeError(f"Dense labels cannot follow {type(step).__name__}; crop and flips they can.")
        hflip, vflip = flips.values()
        return self.rest(image), self.labels.dense(stored, box, hflip, vflip)


_MIRROR: dict[type, Any] = {
    transforms.RandomHorizontalFlip: Image.Transpose.FLIP_LEFT_RIGHT,
    transforms.RandomVerticalFlip: Image.Transpose.FLIP_TOP_BOTTOM,
}


def _resampling(step: Any) -> Any:
    """The interpolation of timm's crop, drawn where it is a choice of several, as timm draws it."""
    import random

    return random.choice(step.interpolation) if isinstance(step.interpolation, tuple | list) else step.interpolation


def save_label_map(path: str | os.PathLike[str], shares: Tensor) -> None:
    """Write how much of each class each place shows, shares (K, h, w), in the stored layout."""
    if shares.ndim != 3 or len(shares) > 2048:
        raise InputError(f"shares must be (K, h, w) of at most 2048 classes, got {tuple(shares.shape)}.")
    if len(shares) < KEPT:
        shares = torch.cat([shares, shares.new_zeros(KEPT - len(shares), *shares.shape[1:])])
    values, classes = shares.topk(KEPT, dim=0)
    classes = torch.where(values > 0, classes, 0)  # a class without a score need not exist
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    torch.save(torch.stack([values.half(), classes.half()]), path)


def write_scene_label_maps(
    root: str | os.PathLike[str], config: SceneConfig, split: Split, count: int, grid: int = 16
) -> None:
    """Label maps from the exact masks, for the images that `write_scenes` puts in the layout `imagefolder`."""
    names = [f"{k:02d}_{name}" for k, name in enumerate(config.class_names)]
    for index in range(count):
        scene = draw_scene(config, split, index)
        mask = torch.from_numpy(scene.semantic.astype(np.int64))
        shown = torch.stack([(mask == k + 1).float() for k in range(config.num_classes)])
        shares = torch.nn.functional.adaptive_avg_pool2d(shown, grid)
        save_label_map(Path(root, names[int(scene.labels[0])], f"{index:08d}.pt"), shares)
