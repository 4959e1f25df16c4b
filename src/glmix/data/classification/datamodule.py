"""Lightning's data modules: what a YAML file says about data, made into loaders.

After `setup` each tells `num_classes`, `class_names` (None where the data has no names), and what an image must look
like: `input_size`, `mean`, `std`, `crop_pct`. `multi_label` tells whether an image may have several labels.

A training batch is (images, targets), or (images, targets, dense) for token labelling: images (B, C, H, W) float,
normalised; targets (B,) int64, or (B, K) float with `multi_label`; dense (B, G, G, K) float, for each cell of a G x G
grid over the image, row by row, how much of each class it shows. `batch_size` is that of one process.
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
    """Procedural scenes, drawn once at the start and kept in memory: the data set that needs no file.

    Scenes of one object give the class as target; of more objects, or with `multi_label`, which classes are present.

    Args:
        scenes: what they look like.
        train_count, val_count, test_count: how many scenes of each split.
        batch_size: scenes a batch in one process.
        eval_batch_size: the same where nothing is trained; None: twice `batch_size`.
        multi_label: targets are vectors (K,) of the classes present; None: where there may be several objects.
        token_labels: add dense labels, made from the exact masks, to training batches.
        token_grid: their cells a side.
        augment: turn and flip the scenes of training, each of the eight ways equally often.
        repeats: repeated augmentation: how often a scene comes in a row.
        seed: of order and augmentation; what the scenes show has its own in `scenes`.
        num_workers: processes that load; 0 is fastest for scenes in memory.
        mean, std: of each colour, white being 1.
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
                f"Scenes of {scenes.objects[0]} to {scenes.objects[1]} objects have several classes: leave "
                "multi_label out or set it to true, or ask for scenes.objects [1, 1]."
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
    """Images on a disk or behind a network, read by timm and augmented as the published recipes do.

    Args:
        source: where the images are and how they are read.
        transforms: what happens to them.
        batch_size: images a batch in one process.
        eval_batch_size: the same where nothing is trained; None: `batch_size`.
        num_workers: processes that load, for each process that trains.
        repeats: repeated augmentation: how often an image comes in a row; 1 is without.
        seed: of order and augmentation.
        token_labels: add dense labels to training batches, as this says.
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
            raise InputError(f"Repeated augmentation needs random access, which the reader {source.reader} has not.")
        if source.streams and token_labels is not None:
            raise InputError(f"Token labels need files with names, which the reader {source.reader} has not.")
        self.source, self.transforms, self.token_labels = source, transforms, token_labels
        self.input_size: tuple[int, int, int] = (3, transforms.size, transforms.size)
        self.mean, self.std, self.crop_pct = transforms.mean, transforms.std, transforms.crop
        self.multi_label = False

    def open_split(self, split: Split) -> Any:
        classes = self.splits["train"].classes if "train" in self.splits else None
        opened: OpenSplit = self.source.open(split, self.num_workers, self.seed, classes)
        if split == "train" and self.token_labels is not None:
            opened.add_labels(self.token_labels)
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
