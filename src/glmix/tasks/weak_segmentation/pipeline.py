"""Weakly supervised segmentation as a pipeline: image labels -> classifier -> seeds and pseudo masks -> segmenter.

Each step writes files that the next step reads, in one folder. NAME is the name of a method by default:

    classifier/                     the classifier, in timm's format
    seeds/NAME/made.json            settings of the seeds, their threshold and how it was chosen
    seeds/NAME/SegmentationClass/   a pseudo mask for every training image, in VOC's palette
    seeds/comparison.json           scores of the seeds of several methods
    segmenter/NAME/                 the segmenter trained on these pseudo masks, and its scores

This module contains the first step and the functions that all steps share; `seeding` and `evaluation` contain the
other steps.
"""

import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
from torch import Tensor, nn

from ...data.core.image_files import upright_size
from ...data.scenes import write_scenes
from ...data.segmentation.files import MaskFiles
from ...errors import InputError
from ...models import GLNet
from ...training.short_training import save_classifier, train_on_scenes
from ..classification import Classification
from .config import WeakSeg
from .data import LabelData, label_vectors
from .labels import ImagesWithLabels
from .methods import SeedConfig, seeds_of
from .metrics import Curve, curve_of
from .seeds import SeedMaps

__all__ = ["Log", "Progress", "curve_of_files", "device", "fit", "image_tensor", "load_classifier", "seeds_of_image"]

Log = Callable[[str], None]
Progress = Callable[[Iterator[int], int, str], Iterator[int]]  # wraps a loop in a progress bar

LAST_OF_MODEL = "README.md"  # the last file that `save_model` writes


def device() -> torch.device:
    """Return the CUDA device if there is one, otherwise the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def fit(config: WeakSeg, log: Log) -> None:
    """Train the classifier. Generate the scenes first if they are configured and do not exist.

    Args:
        log: receives one line of text per step.
    """
    if config.data.scenes is not None and config.data.source is not None and not Path(config.data.source.root).exists():
        log(f"Generating scenes in {config.data.source.root}.")
        counts: Any = {"train": config.data.train_count, "val": config.data.val_count}
        write_scenes(config.data.source.root, "voc", config.data.scenes, counts)
    folder = Path(config.out) / "classifier"
    if (folder / LAST_OF_MODEL).exists():
        log(f"{folder} exists: delete it to train the classifier again.")
        return
    recipe = config.classifier.recipe
    data = LabelData(
        config.data.train(),
        config.data.held_out,
        config.data.transforms,
        config.data.turns,
        config.classifier.batch_size,
        config.data.num_workers,
        config.seed,
    )
    data.setup("fit")
    task = Classification(
        model=config.classifier.model,
        model_args=config.classifier.model_args,
        multi_label=True,
        **recipe.task_arguments(config.seed),
    )
    task.checkpoint = config.classifier.checkpoint
    log(f"Training {config.classifier.model} for {recipe.epochs} epochs on {len(data.files)} images.")
    last = train_on_scenes(task, data, recipe, every_epoch=False)[-1]
    log(f"Mean average precision on the {config.data.held_out} held-out images: {100 * last.score:.1f} %.")
    if not isinstance(task.model, GLNet):
        raise InputError(f"classifier.model must be a GLNet, which has slots; got {config.classifier.model}.")
    save_classifier(task.model, folder, data)


def load_classifier(config: WeakSeg) -> tuple[nn.Module, int]:
    """Load the classifier.

    Returns:
        The model in evaluation mode, and a checksum of its weights.

    Raises:
        FileNotFoundError: the classifier is not trained yet.
    """
    folder = Path(config.out) / "classifier"
    if not (folder / LAST_OF_MODEL).exists():
        raise FileNotFoundError(f"There is no classifier in {folder}: run `glmix weakseg fit` first.")
    model: nn.Module = timm.create_model(f"local-dir:{folder}", pretrained=True)
    return model.eval().to(device()), zlib.crc32((folder / "model.safetensors").read_bytes())


def image_tensor(config: WeakSeg, files: ImagesWithLabels, index: int) -> Tensor:
    """Read an image as input (1, 3, H, W) of the classifier, on its device."""
    image = files.image(index)
    x, _ = config.data.transforms.eval()(image, np.zeros((image.height, image.width), np.uint8))
    return x[None].to(device())


def seeds_of_image(
    config: WeakSeg, seeds: SeedConfig, model: nn.Module, files: ImagesWithLabels, index: int
) -> SeedMaps:
    """Compute the seeds of one image, at the size of its file."""
    (width, height), _ = upright_size(files.images[index])
    images = image_tensor(config, files, index)
    found = seeds_of(model, images, label_vectors(files, [index]).to(images.device), seeds)
    objectness = None if found.objectness is None else found.objectness.cpu()
    return SeedMaps(found.classes.cpu(), objectness).at((height, width))


def curve_of_files(
    config: WeakSeg,
    seeds: SeedConfig,
    model: nn.Module,
    files: MaskFiles,
    indices: range,
    progress: Progress,
    description: str,
) -> Curve:
    """Measure the seeds of some images at every threshold against ground truth.

    Args:
        progress: wraps the loop over images in a progress bar.
        description: text of the progress bar.
    """

    def pairs() -> Iterator[tuple[SeedMaps, Tensor]]:
        for index in progress(iter(indices), len(indices), description):
            truth = torch.from_numpy(files.mask(index))[None]
            yield seeds_of_image(config, seeds, model, files, index), truth

    return curve_of(pairs(), files.num_classes)
