"""What a YAML file says about weak segmentation, as dataclasses that refuse what means nothing."""

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jsonargparse import ArgumentError, ArgumentParser

from ...data.masks.modules import MaskSource
from ...data.masks.transforms import MaskTransformConfig
from ...data.scenes import SceneConfig
from ...errors import InputError
from ...slots.weak.methods import SeedConfig
from ..messages import explain
from ..scene_runs import Recipe
from .scores import THRESHOLDS

__all__ = ["ClassifierConfig", "DataConfig", "SegmenterConfig", "WeakSeg", "read_weakseg"]


@dataclass(frozen=True)
class DataConfig:
    """Images and what is known of them.

    Args:
        source: where they are, in Pascal VOC's layout.
        held_out: images at the end of the training split that no classifier learns: the threshold is chosen on them.
        transforms: what happens to images of training; for all else they are scaled to fit `resize` at most.
        turns: turn images of training by quarters of a circle too, where that leaves things what they are.
        scenes: draw such scenes into the folder of `source`, if it is not there.
        train_count, val_count: how many scenes.
        num_workers: processes that load.
    """

    source: MaskSource
    held_out: int = 200
    transforms: MaskTransformConfig = MaskTransformConfig()  # noqa: RUF009 - it is frozen
    turns: bool = False
    scenes: SceneConfig | None = None
    train_count: int = 3200
    val_count: int = 400
    num_workers: int = 0

    def __post_init__(self) -> None:
        if self.source.layout != "voc":
            raise InputError(f"data.source.layout must be 'voc', got {self.source.layout!r}.")
        for name in ("held_out", "train_count", "val_count"):
            if getattr(self, name) < 1:
                raise InputError(f"data.{name} must be at least 1, got {getattr(self, name)}.")


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
        threshold: the background's; None: the best on the held-out training images, by their masks.
        seed: of everything random.
    """

    out: str
    data: DataConfig
    classifier: ClassifierConfig = ClassifierConfig()
    seeds: SeedConfig = SeedConfig()  # noqa: RUF009
    segmenter: SegmenterConfig = SegmenterConfig()
    threshold: float | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if self.threshold is not None and self.threshold not in THRESHOLDS:
            raise InputError(
                f"threshold must be a multiple of {THRESHOLDS[0]} from {THRESHOLDS[0]} to {THRESHOLDS[-1]}, or null, "
                f"got {self.threshold}."
            )


def read_weakseg(path: Path, overrides: list[str]) -> WeakSeg:
    """The configuration in a YAML file with `--key value` in place of some of it, or a ValueError of one sentence."""
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
        known = [action.dest for action in parser._actions if action.dest not in ("help", "print_config")]
        raise InputError(f"{path}: {explain(str(error), known)}") from error
    except (TypeError, ValueError) as error:
        raise InputError(f"{path}: {error}") from error
