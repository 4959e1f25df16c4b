"""Data modules for semantic segmentation: images and masks in folders, and scenes in memory.

After `setup`, a data module has `num_classes`, `class_names`, `input_size`, `mean`, `std` and `resize`: the box that
evaluation images are scaled to fit, or None if they keep their size.

A training batch is (images, masks): normalised float images (B, 3, H, W) and int64 masks (B, H, W) of class indices,
with the ignore index 255. An evaluation batch is the same, or two lists if sizes differ. Evaluation masks keep the size
of their files, which may differ from the size of the resized images. `batch_size` is per process.
"""

from dataclasses import dataclass
from typing import Any

from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD

from ...errors import InputError
from ..core.datamodule import DataModule, already_collated
from ..scenes import SceneConfig, Split
from ..scenes.datamodule import SceneData
from ..scenes.tensors import SceneTensors
from .dataset import MaskSamples, collate_masks
from .files import MaskFiles, MaskLayout, open_masks
from .transforms import MaskTransformConfig

__all__ = ["MaskData", "MaskSource", "SceneMaskData"]

DEFAULT_TRANSFORMS = MaskTransformConfig()
DEFAULT_SCENES = SceneConfig(size=96)


@dataclass(frozen=True)
class MaskSource:
    """The location and format of images and masks on disk; see `open_masks`.

    Args:
        root: the root folder of the data set.
        layout: `ade20k`, `voc`, or `folder` for custom data.
        train, val, test: names of the splits. If `test` is None, testing uses the split `val`.
        classes: class names in the order of their indices; None reads them from the data.
        num_classes: the number of classes, if they have no names.
        images, masks: folders that replace those of the layout.
        zero_is_class: whether the id 0 is a class; None follows the layout.
        check: number of masks per split that are validated before training; None validates all. Every mask is also
            validated when it is read.
    """

    root: str
    layout: MaskLayout = "ade20k"
    train: str = "train"
    val: str = "val"
    test: str | None = None
    classes: tuple[str, ...] | None = None
    num_classes: int | None = None
    images: str | None = None
    masks: str | None = None
    zero_is_class: bool | None = None
    check: int | None = 100

    def __post_init__(self) -> None:
        if self.classes is not None:
            object.__setattr__(self, "classes", tuple(self.classes))
            if self.num_classes not in (None, len(self.classes)):
                raise InputError(f"num_classes is {self.num_classes}, but classes names {len(self.classes)}.")
        if self.check is not None and self.check < 0:
            raise InputError(f"check must be 0 or more, or null for all masks, got {self.check}.")

    def open(self, split: Split) -> MaskFiles:
        """Pair the files of a split and validate some of the masks; errors name the file and the problem."""
        name = self.val if split == "test" and self.test is None else getattr(self, split)
        files = open_masks(
            self.root,
            name,
            self.layout,
            classes=self.classes if self.classes is not None else self.num_classes,
            images=self.images,
            masks=self.masks,
            zero_is_class=self.zero_is_class,
        )
        files.check(self.check)
        return files


class MaskData(DataModule):
    """Data module of images and masks in folders.

    Args:
        source: location and format of the files.
        transforms: resizing, augmentation and normalisation.
        batch_size: training images per batch and process.
        eval_batch_size: images per batch and process in validation and testing. Images of different sizes are
            evaluated one by one.
        kwargs: arguments of `DataModule`.
    """

    collate = staticmethod(collate_masks)

    def __init__(
        self,
        source: MaskSource,
        transforms: MaskTransformConfig = DEFAULT_TRANSFORMS,
        batch_size: int = 16,
        eval_batch_size: int = 1,
        **kwargs: Any,
    ) -> None:
        super().__init__(batch_size, eval_batch_size, **kwargs)
        self.source, self.transforms = source, transforms
        self.input_size: tuple[int, int, int] = (3, transforms.crop, transforms.crop)
        self.mean, self.std, self.resize = transforms.mean, transforms.std, transforms.resize

    def open_split(self, split: Split) -> MaskSamples:
        return self.samples_of(self.source.open(split), split)

    def samples_of(self, files: MaskFiles, split: Split) -> MaskSamples:
        """Return the data set of a split: augmented samples for training, whole images otherwise."""
        self.num_classes, self.class_names = files.num_classes, list(files.class_names)
        transform = self.transforms.train() if split == "train" else self.transforms.eval()
        return MaskSamples(files, transform, seed=self.seed)


class SceneMaskData(SceneData):
    """Data module of procedural scenes with exact masks, generated once and kept in memory. Class 0 is the background.

    Args:
        scenes: configuration of the scenes.
        train_count, val_count, test_count: number of scenes per split.
        batch_size: training scenes per batch and process.
        augment: rotate training scenes by multiples of 90 degrees and flip them, all eight variants equally often.
        mean, std: channel statistics for normalisation, for pixel values from 0 to 1.
        kwargs: arguments of `SceneData` and `DataModule`. `seed` sets the sample order and the augmentation;
            `scenes` has the seed of the scenes.
    """

    collate = staticmethod(already_collated)

    def __init__(
        self,
        scenes: SceneConfig = DEFAULT_SCENES,
        train_count: int = 2000,
        val_count: int = 200,
        test_count: int = 200,
        batch_size: int = 16,
        augment: bool = True,
        mean: tuple[float, float, float] = IMAGENET_DEFAULT_MEAN,
        std: tuple[float, float, float] = IMAGENET_DEFAULT_STD,
        **kwargs: Any,
    ) -> None:
        super().__init__(scenes, train_count, val_count, test_count, batch_size=batch_size, **kwargs)
        self.augment = augment
        self.mean, self.std, self.resize = mean, std, None
        self.class_names = ["background", *scenes.class_names]
        self.num_classes = len(self.class_names)
        self.input_size: tuple[int, int, int] = (3, scenes.size, scenes.size)

    def open_split(self, split: Split) -> SceneTensors:
        return SceneTensors(
            self.scenes,
            split,
            self.counts[split],
            "semantic",
            mean=self.mean,
            std=self.std,
            seed=self.seed,
            augment=self.augment,
        )
