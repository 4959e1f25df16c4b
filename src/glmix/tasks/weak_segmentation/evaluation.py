"""Last step of the pipeline: the segmenter, and scores of seeds, pseudo masks and segmenter against ground truth."""

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning.pytorch as L
import torch
from lightning.pytorch.callbacks import Callback
from torch import Tensor, nn
from torchmetrics.functional.classification import multiclass_confusion_matrix

from ...data.segmentation.files import IGNORE, MaskFiles
from ...errors import InputError
from ...files import atomic_write, write_json
from ...training.short_training import train_on_scenes
from ...weights import load_trained
from ..segmentation.inference import label_map, segment
from ..segmentation.metrics import SegmentationScores, scores_of
from ..segmentation.task import Segmentation
from .config import WeakSeg
from .data import PseudoMaskData, last_files, with_masks
from .metrics import THRESHOLDS
from .pipeline import Log, Progress, curve_of_files, device, load_classifier
from .seeding import SeedResult, find_seeds, mask_folder, read_seeds

__all__ = ["compare", "evaluate"]


def compare(config: WeakSeg, names: Sequence[str], progress: Progress) -> dict[str, Any]:
    """Measure the seeds of several methods without training a segmenter, and write `seeds/comparison.json`.

    Args:
        names: names of the seeds; empty for all seeds that exist.
        progress: wraps a loop over images in a progress bar.

    Returns:
        `{"classes": names, "thresholds": values, "methods": {name: ...}}`, with the result of `_measure` per method.
    """
    model, classifier = load_classifier(config)
    names = list(dict.fromkeys(names)) or find_seeds(config) or [config.seeds.method]
    found = [read_seeds(config, name, classifier) for name in names]
    methods = {result.name: _measure(config, result, model, progress) for result in found}
    report = {
        "classes": list(config.data.train().class_names),
        "thresholds": list(THRESHOLDS),
        "methods": methods,
    }
    write_json(Path(config.out) / "seeds" / "comparison.json", report)
    return report


def evaluate(config: WeakSeg, name: str | None, log: Log, progress: Progress) -> dict[str, Any]:
    """Train the segmenter on the pseudo masks of one method; measure it and its seeds where ground truth is available.

    Args:
        name: name of the seeds. None: `seeds.method` of the configuration.
        log: receives one line of text per step.
        progress: wraps a loop over images in a progress bar.

    Returns:
        The result of `_measure`, and "classes", "thresholds", "method", "segmenter" (scores, or None without ground
        truth) and "checkpoint" (path of the segmenter).
    """
    model, classifier = load_classifier(config)
    result = read_seeds(config, name or config.seeds.method, classifier)
    measured = _measure(config, result, model, progress)
    path = _segmenter(config, result, log)
    val = config.data.val()
    network = load_trained(path).to(device())
    report = {
        "classes": list(config.data.train().class_names),
        "thresholds": list(THRESHOLDS),
        "method": result.name,
        **measured,
        "segmenter": None if val is None else _score_fields(_final_scores(config, network, val, progress)),
        "checkpoint": str(path),
    }
    write_json(path.with_name("result.json"), report)
    return report


def _score_fields(scores: SegmentationScores) -> dict[str, Any]:
    """Return the mean IoU and the IoU per class."""
    return {"mean_iou": float(scores.mean_iou), "iou": [float(value) for value in scores.iou]}


def _measure(config: WeakSeg, result: SeedResult, model: nn.Module, progress: Progress) -> dict[str, Any]:
    """Return the threshold of the seeds, how it was chosen, and the scores of the seeds.

    "seeds" and "curve" are measured on the validation images, "pseudo masks" on the training images; they are None
    without ground truth. "foreground" is the fraction of pixels in the pseudo masks that are not background.
    """
    found: dict[str, Any] = {
        "threshold": result.threshold,
        "chosen": result.chosen,
        "settings": result.settings,
        "seeds": None,
        "curve": None,
        "pseudo masks": None,
    }
    pseudo = with_masks(config.data.train(), mask_folder(config, result.name))
    counts, found["foreground"] = _pseudo_mask_counts(config.data.train_masks(), pseudo, result.name, progress)
    if counts is not None:
        found["pseudo masks"] = _score_fields(scores_of(counts))
    val = config.data.val()
    if val is not None:
        curve = curve_of_files(config, result.config, model, val, range(len(val)), progress, f"{result.name}: seeds")
        found["seeds"] = _score_fields(curve.at(result.threshold))
        found["curve"] = [round(float(value), 4) for value in curve.mean_iou]
    return found


def _pseudo_mask_counts(
    truth: MaskFiles | None, pseudo: MaskFiles, name: str, progress: Progress
) -> tuple[Tensor | None, float]:
    """Return the confusion matrix of the pseudo masks on the training images, and their foreground fraction."""
    counts = torch.zeros(pseudo.num_classes, pseudo.num_classes, dtype=torch.int64)
    foreground = pixels = 0
    for index in progress(iter(range(len(pseudo))), len(pseudo), f"{name}: pseudo masks"):
        found = torch.from_numpy(pseudo.mask(index)).long()
        foreground, pixels = foreground + int((found > 0).sum()), pixels + found.numel()
        if truth is not None:
            counts += _confusion(torch.from_numpy(truth.mask(index)).long(), found, len(counts))
    return (None if truth is None else counts), foreground / pixels


def _confusion(truth: Tensor, found: Tensor, num_classes: int) -> Tensor:
    """Return the confusion matrix (K, K) of the pixels of one image, ground truth in rows."""
    return multiclass_confusion_matrix(found, truth, num_classes, ignore_index=IGNORE, validate_args=False)


class _SaveAtEnd(Callback):
    """Write a checkpoint at the end of the training, which `glmix segment` can load."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def on_fit_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        with atomic_write(self.path) as part:
            trainer.save_checkpoint(part, weights_only=True)


def _segmenter(config: WeakSeg, result: SeedResult, log: Log) -> Path:
    """Return the path of the segmenter's checkpoint. Train the segmenter if the checkpoint does not exist."""
    part = config.segmenter
    path = Path(config.out) / "segmenter" / result.name / "segmenter.ckpt"
    source = path.with_name("made.json")
    made = json.loads(json.dumps({"seeds": dataclasses.asdict(result), "segmenter": dataclasses.asdict(part)}))
    if path.exists():
        if not source.exists() or json.loads(source.read_text()) != made:
            raise InputError(
                f"{path} was trained with other pseudo masks or settings: delete {path.parent} to train it again."
            )
        return path
    files = with_masks(config.data.train(), mask_folder(config, result.name))
    data = PseudoMaskData(
        files,
        last_files(files, config.data.held_out),  # validate on pseudo masks: ground truth is not used in training
        transforms=dataclasses.replace(config.data.transforms, category_max_ratio=1.0),
        batch_size=part.batch_size,
        num_workers=config.data.num_workers,
        seed=config.seed,
    )
    task = Segmentation(
        model=config.classifier.model,
        model_args={k: v for k, v in config.classifier.model_args.items() if k != "output_stride"},
        decoder=part.decoder,
        decoder_args=part.decoder_args,
        checkpoint=str(Path(config.out) / "classifier" / "model.safetensors"),
        **part.recipe.task_arguments(config.seed),
    )
    log(f"Training {part.decoder} on {config.classifier.model} for {part.recipe.epochs} epochs on pseudo masks.")
    write_json(source, made)
    train_on_scenes(task, data, part.recipe, callbacks=[_SaveAtEnd(path)], every_epoch=False)
    return path


def _final_scores(config: WeakSeg, network: nn.Module, files: MaskFiles, progress: Progress) -> SegmentationScores:
    """Evaluate the segmenter on the validation images."""
    transform = config.data.transforms.eval()
    counts = torch.zeros(files.num_classes, files.num_classes, dtype=torch.int64)
    with torch.inference_mode():
        for index in progress(iter(range(len(files))), len(files), "segmenter: validation images"):
            x, truth = transform(files.image(index), files.mask(index))
            found = label_map(segment(network, x[None].to(device())), (truth.shape[0], truth.shape[1]))[0].cpu()
            counts += _confusion(truth, found, len(counts))
    return scores_of(counts)
