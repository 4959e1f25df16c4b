"""What a YAML file says about weak segmentation, as dataclasses that refuse what means nothing."""

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

from jsonargparse import ArgumentError, ArgumentParser

from ...compat import option_names
from ...data.scenes import SceneConfig
from ...data.segmentation.datamodule import MaskSource
from ...data.segmentation.files import MaskFiles
from ...data.segmentation.transforms import MaskTransformConfig
from ...errors import InputError
from ...training.config_errors import explain
from ...training.short_training import Recipe
from .labels import ImagesWithLabels, LabelSource
from .methods import SeedConfig
from .metrics import THRESHOLDS

__all__ = ["ClassifierConfig", "DataConfig", "SegmenterConfig", "ThresholdChoice", "WeakSeg", "read_weakseg"]

ThresholdChoice = Literal["labels", "masks"]
LAYOUTS = ("voc", "folder")


@dataclass(frozen=True)
class DataConfig:
    """Images, their labels, and masks where there are any. At least one of `images` and `source` must be given.

    Args:
        images: training images with image labels and without masks.
        source: images with masks, in the layout `voc` or `folder`; the id 0 must be the background. Its split `val`
            is what `evaluate` measures on. Without `images`, its split `train` gives the training images.
        held_out: images at the end of the training split that the classifier does not learn; the threshold is chosen
            on them.
        transforms: augmentation of training images. All other images are scaled to fit `resize`.
        turns: also rotate training images by multiples of 90 degrees, where that does not change their classes.
        scenes: draw such scenes into the folder of `source` if it does not exist.
        train_count, val_count: how many scenes.
        num_workers: processes that load images.
    """

    images: LabelSource | None = None
    source: MaskSource | None = None
    held_out: int = 200
    transforms: MaskTransformConfig = MaskTransformConfig()  # noqa: RUF009 - it is frozen
    turns: bool = False
    scenes: SceneConfig | None = None
    train_count: int = 3200
    val_count: int = 400
    num_workers: int = 0

    def __post_init__(self) -> None:
        if self.images is None and self.source is None:
            raise InputError("data has neither images (images with labels) nor source (images with masks): give one.")
        if self.source is not None:
            if self.source.layout not in LAYOUTS:
                raise InputError(
                    f"data.source.layout must be {' or '.join(map(repr, LAYOUTS))}, got {self.source.layout!r}."
                )
            if self.source.zero_is_class is False:
                raise InputError("data.source.zero_is_class must be true or null, as the id 0 is the background.")
        if self.scenes is not None and self.source is None:
            raise InputError("data.scenes are drawn into the folder data.source.root, which is missing.")
        for name in ("held_out", "train_count", "val_count"):
            if getattr(self, name) < 1:
                raise InputError(f"data.{name} must be at least 1, got {getattr(self, name)}.")

    def train(self) -> ImagesWithLabels:
        """Open the training images, of which only the labels are used."""
        if self.images is not None:
            val = self.val()
            return self.images.open(None if val is None else val.class_names[1:])
        assert self.source is not None
        return self.source.open("train")

    def train_masks(self) -> MaskFiles | None:
        """Open the training images with their ground truth, or return None where they have none."""
        return None if self.images is not None or self.source is None else self.source.open("train")

    def val(self) -> MaskFiles | None:
        """Open the validation images with their ground truth, or return None where there are none.

        Raises:
            InputError: their classes are others than those of `images`.
        """
        if self.source is None:
            return None
        files = self.source.open("val")
        if self.images is not None and self.images.classes not in (None, files.class_names[1:]):
            raise InputError(
                f"data.images.classes are {', '.join(self.images.classes or ())}, but the masks of {self.source.root} "
                f"have the classes {', '.join(files.class_names[1:])} (without the background): both must be the same."
            )
        return files


@dataclass(frozen=True)
class ClassifierConfig:
    """Who says which classes an image shows.

    Args:
        model: a GLNet's name.
        model_args: its arguments. A low output_stride and slots in every stage make fine seeds.
        checkpoint: weights to begin from, such as an authors' file.
        recipe: how it learns.
        batch_size: images a step.
    """

    model: str = "glnet_4g"
    model_args: dict[str, Any] = field(default_factory=dict)
    checkpoint: str | None = None
    recipe: Recipe = Recipe()  # noqa: RUF009 - it is frozen
    batch_size: int = 16


@dataclass(frozen=True)
class SegmenterConfig:
    """Who learns the pseudo masks: a decoder on the classifier's backbone.

    Args:
        decoder: a name in segmentation_models.pytorch.
        decoder_args: its arguments.
        recipe: how it learns.
        batch_size: images a step.
    """

    decoder: str = "fpn"
    decoder_args: dict[str, Any] = field(default_factory=dict)
    recipe: Recipe = Recipe()  # noqa: RUF009 - it is frozen
    batch_size: int = 16


@dataclass(frozen=True)
class WeakSeg:
    """The whole pipeline.

    Args:
        out: the folder of everything that it makes.
        data: what is learnt and judged.
        classifier: the first step.
        seeds: how seeds are made of what the classifier and its slots see.
        segmenter: the last step.
        threshold: the score below which a pixel is background, from 0.02 to 0.98. `labels`: chosen on the held-out
            training images without masks, see `threshold.explained_shares`. `masks`: the one with the highest mean IoU
            on the held-out training images, which needs their masks.
        seed: of everything random.
    """

    out: str
    data: DataConfig
    classifier: ClassifierConfig = ClassifierConfig()
    seeds: SeedConfig = SeedConfig()  # noqa: RUF009
    segmenter: SegmenterConfig = SegmenterConfig()
    threshold: float | ThresholdChoice = "labels"
    seed: int = 0

    def __post_init__(self) -> None:
        if self.threshold not in (*THRESHOLDS, *get_args(ThresholdChoice)):
            raise InputError(
                f"threshold must be a multiple of {THRESHOLDS[0]} from {THRESHOLDS[0]} to {THRESHOLDS[-1]}, 'labels' "
                f"or 'masks', got {self.threshold!r}."
            )
        if self.threshold == "masks" and self.data.images is not None:
            raise InputError("threshold 'masks' needs masks of the training images, and data.images has none.")


def read_weakseg(path: Path, overrides: list[str]) -> WeakSeg:
    """Read the configuration in a YAML file.

    Args:
        path: the file.
        overrides: `--key value` for values to replace.

    Raises:
        FileNotFoundError: the file is missing.
        InputError: a key or a value is not accepted.
    """
    if not path.is_file():
        raise FileNotFoundError(f"There is no configuration {path}.")
    names = [item.name for item in dataclasses.fields(WeakSeg)]
    parser = ArgumentParser(exit_on_error=False, prog="glmix weakseg")
    parser.add_argument("--config", action="config")
    parser.add_class_arguments(WeakSeg, as_group=False)
    try:
        parsed = parser.parse_args(["--config", str(path), *overrides])
        found = parser.instantiate_classes(parsed)
        return WeakSeg(**{name: found[name] for name in names})
    except ArgumentError as error:
        known = [name for name in option_names(parser) if name not in ("help", "print_config")]
        raise InputError(f"{path}: {explain(str(error), known)}") from error
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
