"""Weak segmentation as a pipeline over Pascal VOC's layout: image labels -> classifier -> seeds -> segmenter.

Each step leaves files that the next one reads, in one folder:

    classifier/                     the classifier, as timm reads it
    seeds.json                      the background threshold, and how it was chosen
    pseudo/SegmentationClass/*.png  pseudo masks of the training images, in VOC's palette
    segmenter/                      the segmenter's weights, and from what it was trained
    result.json                     what all of it is worth on the validation images
"""

import dataclasses
import json
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import timm
import torch
from PIL import Image
from torch import Tensor, nn

from ...data.masks.files import IGNORE, MaskFiles
from ...data.scenes import write_scenes
from ...data.scenes.write import voc_palette
from ...errors import InputError
from ...files import whole_file, write_whole
from ...models import GLNet, save_model
from ...slots.weak.methods import seeds_of
from ...slots.weak.seeds import SeedMaps
from ..scene_runs import train_on_scenes
from ..segmentation.inference import label_map, segment
from ..segmentation.scores import SegmentationScores, scores_of
from ..segmentation.task import Segmentation
from .config import WeakSeg
from .data import LabelData, PseudoMaskData, label_vectors
from .scores import THRESHOLDS, Curve, curve_of

__all__ = ["evaluate", "fit", "seeds"]

Say = Callable[[str], None]
Watch = Callable[[Iterator[int], int, str], Iterator[int]]  # shows how far a loop is


def _device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def _write(path: Path, contents: dict[str, Any]) -> None:
    write_whole(path, json.dumps(contents, indent=2) + "\n")


# ---- fit


LAST_OF_MODEL = "README.md"  # with it a saved model is whole


def fit(config: WeakSeg, say: Say) -> None:
    """Draw the scenes if the data are scenes and not there yet, and train the classifier."""
    root = Path(config.data.source.root)
    if config.data.scenes is not None and not root.exists():
        say(f"Drawing scenes into {root}.")
        counts: Any = {"train": config.data.train_count, "val": config.data.val_count}
        write_scenes(root, "voc", config.data.scenes, counts)
    folder = Path(config.out) / "classifier"
    if (folder / LAST_OF_MODEL).exists():
        say(f"{folder} is there already: delete it to train it anew.")
        return
    recipe = config.classifier.recipe
    data = LabelData(
        config.data.source,
        config.data.held_out,
        config.data.transforms,
        config.data.turns,
        config.classifier.batch_size,
        config.data.num_workers,
        config.seed,
    )
    data.setup("fit")
    task = recipe.task(config.classifier.model, config.classifier.model_args, config.seed, multi_label=True)
    task.checkpoint = config.classifier.checkpoint
    say(f"Training {config.classifier.model} for {recipe.epochs} epochs.")
    last = train_on_scenes(task, data, recipe, every_epoch=False)[-1]
    say(f"Mean average precision on the {config.data.held_out} held-out images: {100 * last.score:.1f} %.")
    if not isinstance(task.model, GLNet):
        raise InputError(f"Slots are a GLNet's; {config.classifier.model} is a {type(task.model).__name__}.")
    model = task.model.cpu()
    model.pretrained_cfg.update(
        num_classes=data.num_classes,
        label_names=data.class_names,
        input_size=data.input_size,
        pool_size=None,
        crop_pct=1.0,
        mean=data.mean,
        std=data.std,
    )
    save_model(model, folder)


def _print_of(path: Path) -> int:
    """A number that tells one file's content from another's."""
    return zlib.crc32(path.read_bytes())


def _classifier(config: WeakSeg) -> nn.Module:
    folder = Path(config.out) / "classifier"
    if not (folder / LAST_OF_MODEL).exists():
        raise FileNotFoundError(f"There is no classifier in {folder}: run `glmix weakseg fit` first.")
    model: nn.Module = timm.create_model(f"local-dir:{folder}", pretrained=True)
    return model.eval().to(_device())


# ---- seeds


def _look(
    config: WeakSeg, model: nn.Module, files: MaskFiles, transform: Any, index: int, size: tuple[int, int] | None = None
) -> SeedMaps:
    """The seeds of one image, of the size of its file or of another one."""
    image = files.image(index)
    size = size or (image.height, image.width)
    x, _ = transform(image, np.zeros((image.height, image.width), np.uint8))
    found = seeds_of(model, x[None].to(_device()), label_vectors(files, [index]).to(_device()), config.seeds)
    return SeedMaps(found.classes.cpu(), None if found.objectness is None else found.objectness.cpu()).at(size)


def _curve(config: WeakSeg, model: nn.Module, files: MaskFiles, indices: range, watch: Watch, what: str) -> Curve:
    transform = config.data.transforms.eval()

    def pairs() -> Iterator[tuple[SeedMaps, Tensor]]:
        for index in watch(iter(indices), len(indices), what):
            yield _look(config, model, files, transform, index), torch.from_numpy(files.mask(index))[None]

    return curve_of(pairs(), files.num_classes)


def seeds(config: WeakSeg, say: Say, watch: Watch) -> None:
    """Choose the threshold on the held-out training images and write a pseudo mask for every training image.

    Masks that are there are kept, if they were made in the same way.
    """
    out = Path(config.out)
    model, files = _classifier(config), config.data.source.open("train")
    settings = json.loads(json.dumps(dataclasses.asdict(config.seeds)))
    weights = _print_of(out / "classifier" / "model.safetensors")
    path, folder = out / "seeds.json", out / "pseudo" / "SegmentationClass"
    if path.exists():
        chosen = json.loads(path.read_text())
        if chosen.get("settings") != settings:
            raise InputError(
                f"{path} is from other settings of seeds ({chosen.get('settings')}): delete it and {folder}, or choose "
                "another folder with `out`."
            )
        if chosen.get("classifier") != weights:
            raise InputError(f"{path} is from another classifier: delete it and {folder}.")
    elif next(folder.glob("*.png"), None) is not None:
        raise InputError(f"Nothing says how the masks in {folder} were made, as {path} is missing: delete them.")
    else:
        chosen = {"settings": settings, "classifier": weights, "threshold": config.threshold}
        if config.threshold is None:
            held_out = range(len(files) - config.data.held_out, len(files))
            curve = _curve(config, model, files, held_out, watch, "held-out images")
            chosen |= {"threshold": curve.best, "held_out": [round(float(v), 4) for v in curve.mean_iou]}
        _write(path, chosen)
    threshold = chosen["threshold"]
    say(f"Background is what scores below {threshold}.")
    folder.mkdir(parents=True, exist_ok=True)
    transform = config.data.transforms.eval()
    todo = [index for index in range(len(files)) if not (folder / f"{files.name(index)}.png").exists()]
    for index in watch(iter(todo), len(todo), "pseudo masks"):
        mask = Image.fromarray(_look(config, model, files, transform, index).masks(threshold)[0].byte().numpy())
        mask.putpalette(voc_palette())
        with whole_file(folder / f"{files.name(index)}.png") as part:
            mask.save(part, format="PNG")


# ---- evaluate


def _pseudo_scores(config: WeakSeg, files: MaskFiles, watch: Watch) -> SegmentationScores:
    """Of the pseudo masks that were written, by the true masks of the training images."""
    pseudo = dataclasses.replace(config.data.source, masks=str(_pseudo_folder(config))).open("train")
    counts = torch.zeros(files.num_classes, files.num_classes, dtype=torch.int64)
    for index in watch(iter(range(len(files))), len(files), "pseudo masks"):
        truth, found = (torch.from_numpy(part.mask(index)).long() for part in (files, pseudo))
        known = (truth != IGNORE) & (found != IGNORE)
        places = truth[known] * files.num_classes + found[known]
        counts += torch.bincount(places, minlength=counts.numel()).view(counts.shape)
    return scores_of(counts)


def _pseudo_folder(config: WeakSeg) -> Path:
    folder = Path(config.out) / "pseudo" / "SegmentationClass"
    if not folder.exists():
        raise FileNotFoundError(f"There are no pseudo masks in {folder}: run `glmix weakseg seeds` first.")
    return folder.resolve()


def _segmenter(config: WeakSeg, say: Say) -> nn.Module:
    """The segmenter with its weights, trained if they are not there."""
    path, part = Path(config.out) / "segmenter" / "model.safetensors", config.segmenter
    source = path.with_name("made.json")
    made = {
        "seeds": json.loads((Path(config.out) / "seeds.json").read_text()),
        "segmenter": json.loads(json.dumps(dataclasses.asdict(part))),
    }
    if path.exists() and (not source.exists() or json.loads(source.read_text()) != made):
        raise InputError(f"{path} is from other pseudo masks or other settings: delete {path.parent} to train it anew.")
    data = PseudoMaskData(
        str(_pseudo_folder(config)),
        source=config.data.source,
        transforms=dataclasses.replace(config.data.transforms, category_max_ratio=1.0),
        batch_size=part.batch_size,
        num_workers=config.data.num_workers,
        seed=config.seed,
    )
    like = part.recipe.task(config.classifier.model, {}, config.seed)
    weights = Path(config.out) / "classifier" / "model.safetensors"
    task = Segmentation(
        model=config.classifier.model,
        model_args={k: v for k, v in config.classifier.model_args.items() if k != "output_stride"},
        decoder=part.decoder,
        decoder_args=part.decoder_args,
        checkpoint=None if path.exists() else str(weights),
        optimizer=like.optimizer_config,
        schedule=like.schedule_config,
        seed=config.seed,
    )
    if path.exists():
        data.setup("validate")
        network = task.build(data.num_classes)
        network.load_state_dict(safetensors.torch.load_file(path))
    else:
        say(f"Training {part.decoder} on {config.classifier.model} for {part.recipe.epochs} epochs, on pseudo masks.")
        train_on_scenes(task, data, part.recipe, every_epoch=False)
        network = task.model.cpu()
        path.parent.mkdir(parents=True, exist_ok=True)
        _write(source, made)
        state = {name: value.contiguous() for name, value in network.state_dict().items()}
        with whole_file(path) as beside:
            safetensors.torch.save_file(state, beside)
    return network.eval().to(_device())


def _final_scores(config: WeakSeg, network: nn.Module, files: MaskFiles, watch: Watch) -> SegmentationScores:
    transform = config.data.transforms.eval()
    counts = torch.zeros(files.num_classes, files.num_classes, dtype=torch.int64)
    with torch.inference_mode():
        for index in watch(iter(range(len(files))), len(files), "validation images"):
            x, truth = transform(files.image(index), files.mask(index))
            found = label_map(segment(network, x[None].to(_device())), (truth.shape[0], truth.shape[1]))[0].cpu()
            known = truth != IGNORE
            places = truth[known] * files.num_classes + found[known]
            counts += torch.bincount(places, minlength=counts.numel()).view(counts.shape)
    return scores_of(counts)


def evaluate(config: WeakSeg, say: Say, watch: Watch) -> dict[str, Any]:
    """Seeds and segmenter on the validation images, pseudo masks on the training images; trains the segmenter."""
    out = Path(config.out)
    model, train, val = _classifier(config), config.data.source.open("train"), config.data.source.open("val")
    _pseudo_folder(config)
    if not (out / "seeds.json").exists():
        raise FileNotFoundError(f"There is no {out / 'seeds.json'}: run `glmix weakseg seeds` first.")
    threshold = json.loads((out / "seeds.json").read_text())["threshold"]
    curve = _curve(config, model, val, range(len(val)), watch, "seeds")
    rows = {
        "seeds": curve.at(threshold),
        "pseudo masks": _pseudo_scores(config, train, watch),
        "segmenter": _final_scores(config, _segmenter(config, say), val, watch),
    }
    result = {
        "threshold": threshold,
        "thresholds": list(THRESHOLDS),
        "curve": [round(float(value), 4) for value in curve.mean_iou],
        "classes": list(val.class_names),
        **{
            name: {"mean_iou": float(scores.mean_iou), "iou": [float(value) for value in scores.iou]}
            for name, scores in rows.items()
        },
    }
    _write(out / "result.json", result)
    return result
