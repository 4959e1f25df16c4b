"""Lightning's data modules for segmentation: images with masks in folders, and scenes in memory.

After `setup` each tells `num_classes`, `class_names`, `input_size`, `mean`, `std` and `resize`, the box that images are
scaled to fit for evaluation (None: they are left as they are). A training batch is (images, masks): (B, 3, H, W)
float, normalised, and (B, H, W) int64, class indices and 255 for pixels that do not count. A batch of evaluation is the
same, or two lists where sizes differ; a mask has the size of its file, which may be another than its image's.
`batch_size` is that of one process.
"""

from dataclasses import dataclass

from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD

from ...errors import InputError
from ..core.datamodule import DataModule, already_collated
from ..scenes import SceneConfig, Split
from ..scenes.tensors import SceneTensors
from .dataset import MaskSamples, collate_masks
from .files import MaskFiles, MaskLayout, open_masks
from .transforms import MaskTransformConfig

__all__ = ["MaskData", "MaskSource", "SceneMaskData"]

PUBLISHED = MaskTransformConfig()
USUAL_SCENES = SceneConfig(size=96)


@dataclass(frozen=True)
class MaskSource:
    """Where images and masks are; see `open_masks`.

    Args:
        root: the folder that holds the data.
        layout: `ade20k`, `voc`, or `folder` for images and masks of one's own.
        train, val, test: names of the splits. `test` None: the split `val` is tested on.
        classes: names of the classes in the order of their indices; None takes them from the data.
        num_classes: how many classes there are, where nothing names them.
        images, masks: other folders than the layout's.
        zero_is_class: whether the id 0 is a class; None: as in the layout.
        check: how many masks of each split are looked at before training; None: all. Every mask is looked at as it
            is read.
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
        """Pair the files of a split and look at some; errors name what is wrong."""
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
    """Images with masks, in folders.

    Args:
        source: where they are.
        transforms: what happens to them.
        batch_size: images a batch in one process.
        eval_batch_size: the same where nothing is trained. Images of different sizes are computed one by one anyway.
        num_workers: processes that load, for each process that trains.
        seed: of order and augmentation.
    """

    def __init__(
        self,
        source: MaskSource,
        transforms: MaskTransformConfig = PUBLISHED,
        batch_size: int = 16,
        eval_batch_size: int = 1,
        num_workers: int = 4,
        seed: int = 0,
    ) -> None:
        super().__init__(batch_size, eval_batch_size, num_workers, seed, collate=collate_masks)
        self.source, self.transforms = source, transforms
        self.input_size: tuple[int, int, int] = (3, transforms.crop, transforms.crop)
        self.mean, self.std, self.resize = transforms.mean, transforms.std, transforms.resize

    def open_split(self, split: Split) -> MaskSamples:
        return self.samples_of(self.source.open(split), split)

    def samples_of(self, files: MaskFiles, split: Split) -> MaskSamples:
        """Return the data set over the files of a split: augmented in training, whole images otherwise."""
        self.num_classes, self.class_names = files.num_classes, list(files.class_names)
        transform = self.transforms.train() if split == "train" else self.transforms.eval()
        return MaskSamples(files, transform, seed=self.seed)


class SceneMaskData(DataModule):
    """Procedural scenes with exact masks, drawn once at the start and kept in memory. Class 0 is the background.

    Args:
        scenes: what they look like.
        train_count, val_count, test_count: how many scenes of each split.
        batch_size: scenes a batch in one process.
        eval_batch_size: the same where nothing is trained; None: twice `batch_size`.
        augment: turn and flip the scenes of training, each of the eight ways equally often.
        seed: of order and augmentation; what the scenes show has its own in `scenes`.
        num_workers: processes that load; 0 is fastest for scenes in memory.
        mean, std: of each colour, white being 1.
    """

    def __init__(
        self,
        scenes: SceneConfig = USUAL_SCENES,
        train_count: int = 2000,
        val_count: int = 200,
        test_count: int = 200,
        batch_size: int = 16,
        eval_batch_size: int | None = None,
        augment: bool = True,
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
            collate=already_collated,
        )
        self.scenes = scenes
        self.counts: dict[Split, int] = {"train": train_count, "val": val_count, "test": test_count}
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
