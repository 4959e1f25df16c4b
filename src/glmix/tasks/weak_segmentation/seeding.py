"""Second step of the pipeline: seeds and pseudo masks by one method or several, each in its own folder."""

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import nn

from ...data.scenes.write import voc_palette
from ...errors import InputError
from ...files import atomic_write, write_json
from .config import WeakSeg
from .labels import ImagesWithLabels
from .methods import SeedConfig
from .metrics import THRESHOLDS, explained_shares
from .pipeline import Log, Progress, curve_of_files, image_tensor, load_classifier, seeds_of_image
from .views import run_views

__all__ = ["SeedResult", "find_seeds", "read_seeds", "seeds"]

MADE, MASKS = "made.json", "SegmentationClass"


@dataclass(frozen=True)
class SeedResult:
    """Record of the seeds of one method.

    Args:
        name: name of the folder.
        settings: fields of the `SeedConfig`.
        classifier: checksum of the classifier's weights.
        threshold: background threshold: a pixel whose score is lower is background.
        asked: value of `threshold` in the configuration.
        chosen: description of how the threshold was chosen.
        curve: the criterion at every threshold: mean IoU on the held-out images if it was chosen with masks, explained
            share of the features' variance if it was chosen without masks. None if the threshold was configured.
    """

    name: str
    settings: dict[str, Any]
    classifier: int
    threshold: float
    asked: float | str
    chosen: str
    curve: list[float] | None = None

    @property
    def config(self) -> SeedConfig:
        return SeedConfig(**self.settings)


def _folder(config: WeakSeg, name: str) -> Path:
    return Path(config.out) / "seeds" / name


def mask_folder(config: WeakSeg, name: str) -> Path:
    """Return the folder of the pseudo masks."""
    return _folder(config, name) / MASKS


def find_seeds(config: WeakSeg) -> list[str]:
    """List the names of all seeds that exist."""
    return sorted(path.parent.name for path in (Path(config.out) / "seeds").glob(f"*/{MADE}"))


def read_seeds(config: WeakSeg, name: str, classifier: int) -> SeedResult:
    """Read the record of seeds.

    Raises:
        FileNotFoundError: seeds of this name do not exist.
        InputError: the seeds are from another classifier.
    """
    path = _folder(config, name) / MADE
    if not path.exists():
        there = ", ".join(find_seeds(config)) or "none"
        raise FileNotFoundError(
            f"There are no seeds named {name} ({path} is missing; existing seeds: {there}): run `glmix weakseg seeds`."
        )
    found = SeedResult(name=name, **json.loads(path.read_text()))
    if found.classifier != classifier:
        raise InputError(
            f"{path} was computed with another classifier: delete {path.parent} to compute these seeds again."
        )
    return found


def seeds(config: WeakSeg, methods: Sequence[str], name: str | None, log: Log, progress: Progress) -> None:
    """Write the seeds of some methods: a threshold and a pseudo mask for every training image.

    Masks that exist are kept if they were made with the same settings.

    Args:
        methods: methods to use instead of `seeds.method` of the configuration; empty for that method.
        name: name of the folder if there is one method; None for the name of the method.
        log: receives one line of text per method.
        progress: wraps a loop over images in a progress bar.

    Raises:
        InputError: a method is unknown, or its folder holds seeds with other settings.
    """
    methods = list(dict.fromkeys(methods)) or [config.seeds.method]
    if name is not None and (len(methods) > 1 or Path(name).name != name):
        raise InputError(f"--name is the name of a folder for one method, got {name!r} for {', '.join(methods)}.")
    wanted: list[SeedConfig] = [dataclasses.replace(config.seeds, method=method) for method in methods]  # type: ignore[arg-type]
    model, classifier = load_classifier(config)
    files = config.data.train()
    for one in wanted:
        result = _chosen(config, name or one.method, one, model, classifier, files, progress)
        log(f"{result.name}: background threshold {result.threshold} ({result.chosen}).")
        _write_masks(config, result, model, files, progress)


def _chosen(
    config: WeakSeg,
    name: str,
    seeds: SeedConfig,
    model: nn.Module,
    classifier: int,
    files: ImagesWithLabels,
    progress: Progress,
) -> SeedResult:
    """Return the record of seeds. Choose the threshold and write the record if it does not exist."""
    folder = _folder(config, name)
    settings = json.loads(json.dumps(dataclasses.asdict(seeds)))
    if (folder / MADE).exists():
        found = read_seeds(config, name, classifier)
        if (found.settings, found.asked) != (settings, config.threshold):
            raise InputError(
                f"{folder} contains seeds with other settings ({found.settings}, threshold {found.asked}): choose "
                "another folder with --name NAME, or delete this one."
            )
        return found
    if next(folder.rglob("*.png"), None) is not None:
        raise InputError(
            f"{folder / MADE} is missing, so the settings of the masks in its folder are unknown: delete them."
        )
    threshold, chosen, curve = _threshold(config, seeds, model, files, progress)
    result = SeedResult(name, settings, classifier, threshold, config.threshold, chosen, curve)
    contents = dataclasses.asdict(result)
    del contents["name"]  # the folder has this name
    write_json(folder / MADE, contents)
    return result


def _threshold(
    config: WeakSeg, seeds: SeedConfig, model: nn.Module, files: ImagesWithLabels, progress: Progress
) -> tuple[float, str, list[float] | None]:
    """Return the threshold, how it was chosen, and the criterion at all thresholds."""
    if isinstance(config.threshold, float):
        return config.threshold, "set in the configuration", None
    held_out = range(len(files) - config.data.held_out, len(files))
    if config.threshold == "masks":
        truth = config.data.train_masks()
        assert truth is not None  # checked by the configuration
        curve = curve_of_files(config, seeds, model, truth, held_out, progress, f"{seeds.method}: held-out images")
        how = f"highest mean IoU on the masks of {len(held_out)} held-out training images"
        return curve.best, how, [round(float(value), 4) for value in curve.mean_iou]
    shares = torch.zeros(len(THRESHOLDS))
    for index in progress(iter(held_out), len(held_out), f"{seeds.method}: held-out images"):
        features = run_views(model, image_tensor(config, files, index)).features[0][0]
        score = seeds_of_image(config, seeds, model, files, index).score
        shares += explained_shares(score, features.cpu())[0] / len(held_out)
    how = f"without masks, from the features of {len(held_out)} held-out training images"
    return THRESHOLDS[int(shares.argmax())], how, [round(float(value), 4) for value in shares]


def _write_masks(
    config: WeakSeg, result: SeedResult, model: nn.Module, files: ImagesWithLabels, progress: Progress
) -> None:
    """Write the pseudo masks that do not exist."""
    folder = mask_folder(config, result.name)
    todo = [index for index, name in enumerate(files.names) if not (folder / f"{name}.png").exists()]
    for index in progress(iter(todo), len(todo), f"{result.name}: pseudo masks"):
        seeds = seeds_of_image(config, result.config, model, files, index)
        mask = Image.fromarray(seeds.masks(result.threshold)[0].byte().numpy())
        mask.putpalette(voc_palette())
        with atomic_write(folder / f"{files.names[index]}.png") as part:
            mask.save(part, format="PNG")
