"""Lightning data modules for image classification and token labelling.

After `setup` each has `num_classes`, `class_names` (None if the data have no names) and the preprocessing parameters
`input_size`, `mean`, `std` and `crop_pct`. `multi_label` is true if an image may have several labels. Images without
labels have `labelled` false, the number of classes and `multi_label` None, and the target 0.

A training batch is (images, targets), or (images, targets, dense) for token labelling: images (B, C, H, W) float,
normalised; targets (B,) int64, or (B, K) float with `multi_label`; dense (B, G, G, K) float, the share of each class in
each cell of a G x G grid over the image. `batch_size` is per process.
"""

from typing import Any

from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from torch.utils.data import DataLoader

from ...errors import InputError
from ..core.datamodule import DataModule, already_collated
from ..scenes import SceneConfig, Split
from ..scenes.tensors import SceneTensors
from .source import ImageSource, OpenSplit, TokenLabelConfig
from .transforms import TransformConfig

__all__ = ["ImageData", "ScenesData"]

ONE_OBJECT = SceneConfig(objects=(1, 1))
PUBLISHED = TransformConfig()


class ScenesData(DataModule):
    """Data module of procedural scenes, which are drawn once and kept in memory. It needs no files.

    The target is the class for scenes of one object. For scenes of several objects, or with `multi_label`, it is the
    vector of present classes.

    Args:
        scenes: configuration of the scenes.
        train_count: number of training scenes.
        val_count: number of validation scenes.
        test_count: number of test scenes.
        batch_size: training scenes per batch and process.
        eval_batch_size: scenes per batch and process in validation and testing; None for twice `batch_size`.
        multi_label: use vectors (K,) of the present classes as targets; None uses them if a scene may have several
            objects.
        token_labels: add dense labels, computed from the exact masks, to training batches.
        token_grid: cells per side of the dense labels.
        augment: rotate and flip training scenes randomly, with all eight combinations equally likely.
        repeats: number of consecutive draws of each scene (repeated augmentation).
        seed: seed of the sample order and of the augmentation; `scenes` has the seed of the scenes.
        num_workers: worker processes of each loader; 0 is fastest for scenes in memory.
        mean: mean of each channel, for values from 0 to 1.
        std: standard deviation of each channel, for values from 0 to 1.
    """

    def __init__(
        self,
        scenes: SceneConfig = ONE_OBJECT,
        train_count: int = 3000,
        val_count: int = 1000,
        test_count: int = 1000,
        batch_size: int = 64,
        eval_batch_size: int | None = None,
        multi_label: bool | None = None,
        token_labels: bool = False,
        token_grid: int = 7,
        augment: bool = True,
        repeats: int = 1,
        seed: int = 0,
        num_workers: int = 0,
        mean: tuple[float, float, float] = IMAGENET_DEFAULT_MEAN,
        std: tuple[float, float, float] = IMAGENET_DEFAULT_STD,
    ) -> None:
        super().__init__(
            batch_size,
            2 * batch_size if eval_batch_size is None else eval_batch_size,
            num_workers,
            seed,
            repeats=repeats,
            collate=already_collated,
        )
        multi_label = not scenes.single if multi_label is None else multi_label
        if not multi_label and not scenes.single:
            raise InputError(
                f"Scenes of {scenes.objects[0]} to {scenes.objects[1]} objects may have several classes: leave "
                "multi_label out, set it to true, or set scenes.objects to [1, 1]."
            )
        self.scenes = scenes
        self.counts: dict[Split, int] = {"train": train_count, "val": val_count, "test": test_count}
        self.multi_label = multi_label
        self.token_grid = token_grid if token_labels else None
        self.augment = augment
        self.mean, self.std, self.crop_pct = mean, std, 1.0
        self.num_classes = scenes.num_classes
        self.class_names = list(scenes.class_names)
        self.input_size: tuple[int, int, int] = (3, scenes.size, scenes.size)

    def open_split(self, split: Split) -> SceneTensors:
        return SceneTensors(
            self.scenes,
            split,
            self.counts[split],
            "labels" if self.multi_label else "label",
            mean=self.mean,
            std=self.std,
            seed=self.seed,
            augment=self.augment,
            grid=self.token_grid if split == "train" else None,
        )


class ImageData(DataModule):
    """Data module of local or streamed images, read by timm, with the augmentation of the published recipes.

    Args:
        source: location and format of the images.
        transforms: augmentation and preprocessing.
        batch_size: training images per batch and process.
        eval_batch_size: images per batch and process in validation and testing; None for `batch_size`.
        num_workers: worker processes of each loader, per training process.
        repeats: number of consecutive draws of each image (repeated augmentation); 1 turns it off.
        seed: seed of the sample order and of the augmentation.
        token_labels: configuration of dense labels for training batches; None for no dense labels.
    """

    def __init__(
        self,
        source: ImageSource,
        transforms: TransformConfig = PUBLISHED,
        batch_size: int = 128,
        eval_batch_size: int | None = None,
        num_workers: int = 8,
        repeats: int = 1,
        seed: int = 0,
        token_labels: TokenLabelConfig | None = None,
    ) -> None:
        super().__init__(
            batch_size,
            batch_size if eval_batch_size is None else eval_batch_size,
            num_workers,
            seed,
            repeats=repeats,
        )
        if source.streams and repeats > 1:
            raise InputError(
                f"repeats of {repeats} need random access, but the reader {source.reader} streams its data."
            )
        if source.streams and token_labels is not None:
            raise InputError(f"token_labels need file names, but the reader {source.reader} has none.")
        if token_labels is not None and not source.labelled:
            raise InputError("token_labels need images with labels, but the reader images has none.")
        self.source, self.transforms, self.token_labels = source, transforms, token_labels
        self.input_size: tuple[int, int, int] = (3, transforms.size, transforms.size)
        self.mean, self.std, self.crop_pct = transforms.mean, transforms.std, transforms.crop
        self.labelled = source.labelled
        self.multi_label = False if source.labelled else None
        self.num_classes = None

    def open_split(self, split: Split) -> Any:
        classes = self.splits["train"].classes if "train" in self.splits else None
        opened: OpenSplit = self.source.open(split, self.num_workers, self.seed, classes)
        if split == "train" and self.token_labels is not None:
            opened.add_labels(self.token_labels)
        if self.labelled:
            self.num_classes, self.class_names = opened.num_classes, opened.class_names
        return opened

    def train_dataloader(self) -> Any:
        return self.splits["train"].train_loader(
            self.transforms,
            self.batch_size,
            seed=self.seed,
            repeats=self.repeats,
            **self.resume_position(),
            num_workers=self.num_workers,
        )

    def eval_dataloader(self, split: Split) -> DataLoader[Any]:
        loader: DataLoader[Any] = self.splits[split].eval_loader(
            self.transforms, self.eval_batch_size, self.num_workers
        )
        return loader
