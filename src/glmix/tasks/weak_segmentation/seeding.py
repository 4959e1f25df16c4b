"""The second step: seeds by one method or several, each in a folder of its own."""

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
from ...files import atomic_write
from .config import WeakSeg
from .labels import ImagesWithLabels
from .methods import SeedConfig
from .metrics import THRESHOLDS
from .pipeline import Say, Watch, curve_of_files, image_tensor, load_classifier, seeds_of_image, write_json
from .threshold import explained_shares
from .views import look

__all__ = ["SeedResult", "find_seeds", "read_seeds", "seeds"]

MADE, MASKS = "made.json", "SegmentationClass"


@dataclass(frozen=True)
class SeedResult:
    """The seeds of one method, as they were written.

    Args:
        name: of their folder.
        settings: how they were made.
        classifier: a checksum of the classifier's weights.
        threshold: the score below which a pixel is background.
        asked: the configuration's `threshold`.
        chosen: how the threshold was chosen, in words.
        curve: what it was chosen by at every threshold: the mean IoU on the held-out images if it was by masks, the
            explained share of the features' variance if it was without masks; None if it was given.
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
    return _folder(config, name) / MASKS


def find_seeds(config: WeakSeg) -> list[str]:
    """List the names of all seeds that were written."""
    return sorted(path.parent.name for path in (Path(config.out) / "seeds").glob(f"*/{MADE}"))


def read_seeds(config: WeakSeg, name: str, classifier: int) -> SeedResult:
    """Read how seeds were made.

    Raises:
        FileNotFoundError: there are none of this name.
        InputError: they are from another classifier.
    """
    path = _folder(config, name) / MADE
    if not path.exists():
        there = ", ".join(find_seeds(config)) or "none"
        raise FileNotFoundError(
            f"There are no seeds named {name} ({path} is missing; there are: {there}): run `glmix weakseg seeds`."
        )
    found = SeedResult(name=name, **json.loads(path.read_text()))
    if found.classifier != classifier:
        raise InputError(f"{path} is from another classifier: delete {path.parent} to make these seeds anew.")
    return found


def seeds(config: WeakSeg, methods: Sequence[str], name: str | None, say: Say, watch: Watch) -> None:
    """Write seeds of some methods beside each other: a threshold and a pseudo mask for every training image.

    Masks that exist are kept if they were made in the same way.

    Args:
        methods: what replaces the configuration's `seeds.method`; empty for that one.
        name: of the folder, if there is one method; None for the method's name.

    Raises:
        InputError: a method is unknown, or its folder holds seeds of other settings.
    """
    methods = list(dict.fromkeys(methods)) or [config.seeds.method]
    if name is not None and (len(methods) > 1 or Path(name).name != name):
        raise InputError(f"--name is a folder's name for one method, got {name!r} for {', '.join(methods)}.")
    wanted: list[SeedConfig] = [dataclasses.replace(config.seeds, method=method) for method in methods]  # type: ignore[arg-type]
    model, classifier = load_classifier(config)
    files = config.data.train()
    for one in wanted:
        result = _chosen(config, name or one.method, one, model, classifier, files, watch)
        say(f"{result.name}: background is what scores below {result.threshold} ({result.chosen}).")
        _write_masks(config, result, model, files, watch)


def _chosen(
    config: WeakSeg,
    name: str,
    seeds: SeedConfig,
    model: nn.Module,
    classifier: int,
    files: ImagesWithLabels,
    watch: Watch,
) -> SeedResult:
    """The record of these seeds, read or written anew with the threshold chosen."""
    folder = _folder(config, name)
    settings = json.loads(json.dumps(dataclasses.asdict(seeds)))
    if (folder / MADE).exists():
        found = read_seeds(config, name, classifier)
        if (found.settings, found.asked) != (settings, config.threshold):
            raise InputError(
                f"{folder} holds seeds of other settings ({found.settings}, threshold {found.asked}): write these "
                "beside them with --name NAME, or delete the folder."
            )
        return found
    if next(folder.rglob("*.png"), None) is not None:
        raise InputError(
            f"{folder / MADE} is missing, so it is unknown how the masks beside it were made: delete them."
        )
    threshold, chosen, curve = _threshold(config, seeds, model, files, watch)
    result = SeedResult(name, settings, classifier, threshold, config.threshold, chosen, curve)
    contents = dataclasses.asdict(result)
    del contents["name"]  # the folder has it
    write_json(folder / MADE, contents)
    return result


def _threshold(
    config: WeakSeg, seeds: SeedConfig, model: nn.Module, files: ImagesWithLabels, watch: Watch
) -> tuple[float, str, list[float] | None]:
    """The threshold, how it was chosen, and the values at all thresholds by which it was chosen."""
    if isinstance(config.threshold, float):
        return config.threshold, "given by the configuration", None
    held_out = range(len(files) - config.data.held_out, len(files))
    if config.threshold == "masks":
        truth = config.data.train_masks()
        assert truth is not None  # the configuration is checked
        curve = curve_of_files(config, seeds, model, truth, held_out, watch, f"{seeds.method}: held-out images")
        how = f"the best mean IoU by the masks of {len(held_out)} held-out training images"
        return curve.best, how, [round(float(value), 4) for value in curve.mean_iou]
    shares = torch.zeros(len(THRESHOLDS))
    for index in watch(iter(held_out), len(held_out), f"{seeds.method}: held-out images"):
        features = look(model, image_tensor(config, files, index)).features[0][0]
        score = seeds_of_image(config, seeds, model, files, index).score
        shares += explained_shares(score, features.cpu())[0] / len(held_out)
    how = f"without masks, by the features of {len(held_out)} held-out training images"
    return THRESHOLDS[int(shares.argmax())], how, [round(float(value), 4) for value in shares]


def _write_masks(config: WeakSeg, result: SeedResult, model: nn.Module, files: ImagesWithLabels, watch: Watch) -> None:
    """Write the pseudo masks that are missing."""
    folder = mask_folder(config, result.name)
    todo = [index for index, name in enumerate(files.names) if not (folder / f"{name}.png").exists()]
    for index in watch(iter(todo), len(todo), f"{result.name}: pseudo masks"):
        seeds = seeds_of_image(config, result.config, model, files, index)
        mask = Image.fromarray(seeds.masks(result.threshold)[0].byte().numpy())
        mask.putpalette(voc_palette())
        with atomic_write(folder / f"{files.names[index]}.png") as part:
            mask.save(part, format="PNG")
