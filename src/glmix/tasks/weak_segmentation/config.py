"""Configuration of weakly supervised segmentation: dataclasses that validate a YAML file."""

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
    """Images, their labels, and ground truth masks where available.

    At least one of `images` and `source` must be set.

    Args:
        images: training images with image labels and without masks.
        source: images with masks, in the layout `voc` or `folder`; the class id 0 must be the background. `evaluate`
            measures on its split `val`. Without `images`, its split `train` provides the training images.
        held_out: number of images at the end of the training split that the classifier is not trained on; the
            background threshold is chosen on them.
        transforms: augmentation of training images. All other images are resized to fit `resize`.
        turns: also rotate training images by multiples of 90 degrees, for images whose classes do not depend on
            orientation.
        scenes: generate such scenes into the folder of `source` if it does not exist.
        train_count, val_count: number of training and validation scenes to generate.
        num_workers: number of worker processes that load images.
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
            raise InputError("data has neither images (images with labels) nor source (images with masks): set one.")
        if self.source is not None:
            if self.source.layout not in LAYOUTS:
                raise InputError(
                    f"data.source.layout must be {' or '.join(map(repr, LAYOUTS))}, got {self.source.layout!r}."
                )
            if self.source.zero_is_class is False:
                raise InputError("data.source.zero_is_class must be true or null, because the id 0 is the background.")
        if self.scenes is not None and self.source is None:
            raise InputError("data.scenes needs data.source.root, the folder to write the scenes to.")
        for name in ("held_out", "train_count", "val_count"):
            if getattr(self, name) < 1:
                raise InputError(f"data.{name} must be at least 1, got {getattr(self, name)}.")

    def train(self) -> ImagesWithLabels:
        """Open the training images. Only their image labels are used."""
        if self.images is not None:
            val = self.val()
            return self.images.open(None if val is None else val.class_names[1:])
        assert self.source is not None
        return self.source.open("train")

    def train_masks(self) -> MaskFiles | None:
        """Open the training images with their ground truth masks, or return None if they have no masks."""
        return None if self.images is not None or self.source is None else self.source.open("train")

    def val(self) -> MaskFiles | None:
        """Open the validation images with their ground truth masks, or return None if `source` is not set.

        Raises:
            InputError: their classes differ from those of `images`.
        """
        if self.source is None:
            return None
        files = self.source.open("val")
        if self.images is not None and self.images.classes not in (None, files.class_names[1:]):
            raise InputError(
                f"data.images.classes are {', '.join(self.images.classes or ())}, but the masks of {self.source.root} "
                f"have the classes {', '.join(files.class_names[1:])} (without background): both must be the same."
            )
        return files


@dataclass(frozen=True)
class ClassifierConfig:
    """The multi-label classifier.

    Args:
        model: name of a GLNet.
        model_args: arguments of the model. A low output_stride and slots in every stage give fine seeds.
        checkpoint: weights to start from, such as an official checkpoint.
        recipe: training recipe.
        batch_size: images per training step.
    """

    model: str = "glnet_4g"
    model_args: dict[str, Any] = field(default_factory=dict)
    checkpoint: str | None = None
    recipe: Recipe = Recipe()  # noqa: RUF009 - it is frozen
    batch_size: int = 16


@dataclass(frozen=True)
class SegmenterConfig:
    """The segmenter trained on the pseudo masks: a decoder on the classifier's backbone.

    Args:
        decoder: name of a decoder in segmentation_models.pytorch.
        decoder_args: arguments of the decoder.
        recipe: training recipe.
        batch_size: images per training step.
    """

    decoder: str = "fpn"
    decoder_args: dict[str, Any] = field(default_factory=dict)
    recipe: Recipe = Recipe()  # noqa: RUF009 - it is frozen
    batch_size: int = 16


@dataclass(frozen=True)
class WeakSeg:
    """Configuration of the whole pipeline.

    Args:
        out: output folder of all steps.
        data: images, labels and masks.
        classifier: first step.
        seeds: settings for computing seeds from class activation maps and slots.
        segmenter: last step.
        threshold: background threshold, from 0.02 to 0.98: a pixel whose score is lower is background. `labels` chooses
            it on the held-out training images without masks, see `metrics.explained_shares`. `masks` chooses the
            threshold with the highest mean IoU on the held-out training images, which needs their masks.
        seed: random seed.
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
            raise InputError("threshold 'masks' needs masks of the training images, but data.images has no masks.")


def read_weakseg(path: Path, overrides: list[str]) -> WeakSeg:
    """Read the configuration from a YAML file.

    Args:
        path: the YAML file.
        overrides: values to replace, as alternating `--key` and `value`.

    Raises:
        FileNotFoundError: the file is missing.
        InputError: a key or a value is not accepted.
    """
    if not path.is_file():
        raise FileNotFoundError(f"The configuration file {path} does not exist.")
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
