"""Comparison of weak segmentation methods on scenes: seeds from one classifier, and segmenters trained on them.

Thresholds are chosen on held-out scenes of the training split, by their masks unless stated otherwise. All scores are
measured on the test split. Finished results are written to files and read from there in a later run.
"""

import dataclasses
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import timm
import torch
from torch import Tensor, nn

from glmix.data.classification.datamodule import ScenesData
from glmix.data.scenes import SceneConfig, Split
from glmix.data.scenes.tensors import SceneTensors
from glmix.data.segmentation.datamodule import SceneMaskData
from glmix.errors import InputError
from glmix.files import write_atomically
from glmix.models import GLNet, save_model
from glmix.tasks import Classification
from glmix.tasks.segmentation.inference import label_map, segment
from glmix.tasks.segmentation.metrics import scores_of
from glmix.tasks.segmentation.task import Segmentation
from glmix.tasks.weak_segmentation.gradcam import grad_cam
from glmix.tasks.weak_segmentation.methods import SeedConfig, class_maps, seed_maps
from glmix.tasks.weak_segmentation.metrics import THRESHOLDS, curve_of, explained_shares
from glmix.tasks.weak_segmentation.seeds import SeedMaps
from glmix.tasks.weak_segmentation.views import run_views
from glmix.training.optim import OptimizerConfig, ScheduleConfig
from glmix.training.short_training import Recipe, train_on_scenes

__all__ = ["Comparison", "Method", "examples", "run_seed", "seed_methods", "threshold_choices"]

BATCH = 50
GRAD_CAM = ("gradcam++", "layercam")


@dataclass(frozen=True)
class Method:
    """A method to compute seeds.

    Args:
        name: name in the table.
        config: settings of the method; with `grad_cam`, only `polish` has an effect.
        untrained: apply SlotCut to the slots of an untrained network.
        grad_cam: method of pytorch-grad-cam that computes the class maps; None for the methods of glmix.
    """

    name: str
    config: SeedConfig
    untrained: bool = False
    grad_cam: str | None = None


@dataclass(frozen=True)
class Comparison:
    """Configuration of the comparison.

    Args:
        scenes: configuration of the images.
        train_count: number of scenes to train the classifier on.
        held_out: number of scenes to choose thresholds on; they follow the training scenes in the training split.
        test_count: number of test scenes.
        model: model name of the classifier.
        model_args: arguments of the classifier.
        recipe: training settings of the classifier.
        blocks: blocks whose slots are used.
        effective: effective number of slots per pixel, in refinement and SlotCut.
        pseudo_count: number of scenes whose pseudo masks train the segmenters.
        decoder_args: arguments of the segmenter's decoder, an FPN on the classifier's backbone.
        segmenter: training settings of the segmenter.
    """

    scenes: SceneConfig = SceneConfig(objects=(1, 3))  # noqa: RUF009 - it is frozen
    train_count: int = 3000
    held_out: int = 200
    test_count: int = 400
    model: str = "test_glnet"
    model_args: dict[str, Any] = field(
        default_factory=lambda: {"depths": [2, 1, 1, 1], "output_stride": 8, "mixers": ["glmix"] * 4}
    )
    recipe: Recipe = Recipe(epochs=12)  # noqa: RUF009
    blocks: tuple[int, ...] = (0, 1)
    effective: float = 4.0
    pseudo_count: int = 2000
    decoder_args: dict[str, Any] = field(
        default_factory=lambda: {
            "decoder_pyramid_channels": 64,
            "decoder_segmentation_channels": 32,
            "decoder_dropout": 0.0,
        }
    )
    segmenter: Recipe = Recipe(epochs=6, lr=1e-3, warmup=0.1)  # noqa: RUF009


def seed_methods(config: Comparison) -> list[Method]:
    """Return all methods, first with one view per image, then with eight views (test-time augmentation)."""
    methods = [Method(f"pytorch-grad-cam: {name}", SeedConfig("cam"), grad_cam=name) for name in GRAD_CAM]
    for views in (1, 8):
        suffix = f", {views} views" if views > 1 else ""

        def config_of(method: Any, polish: bool = False, views: int = views) -> SeedConfig:
            return SeedConfig(method, config.blocks, effective=config.effective, views=views, polish=polish)

        methods += [
            Method(f"CAM{suffix}", config_of("cam")),
            Method(f"CAM + PAMR{suffix}", config_of("cam", True)),
            Method(f"refined by slots{suffix}", config_of("slots")),
            Method(f"SlotCut{suffix}", config_of("slotcut")),
            Method(f"SlotCut + PAMR{suffix}", config_of("slotcut", True)),
            Method(f"cut of untrained slots{suffix}", config_of("slotcut"), untrained=True),
            Method(f"cut of dense features{suffix}", config_of("dense")),
            Method(f"cut of dense features + PAMR{suffix}", config_of("dense", True)),
            Method(f"cut of dense features, stage 1{suffix}", dataclasses.replace(config_of("dense"), stage=1)),
            Method(f"cut of dense features, last stage{suffix}", dataclasses.replace(config_of("dense"), stage=-1)),
        ]
    return methods


class _Scenes:
    """Consecutive scenes of a split: images (N, 3, H, W), true masks (N, H, W), image labels (N, K)."""

    def __init__(self, config: Comparison, split: Split, start: int, count: int) -> None:
        data = ScenesData(config.scenes)
        drawn = SceneTensors(config.scenes, split, start + count, "semantic", mean=data.mean, std=data.std)
        self.images, self.masks = drawn.__getitems__(range(start, start + count))
        classes = torch.arange(1, config.scenes.num_classes + 1)
        self.present = (self.masks.flatten(1)[:, None] == classes[:, None]).any(2).float()

    def batches(self) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        yield from zip(self.images.split(BATCH), self.masks.split(BATCH), self.present.split(BATCH), strict=True)


def _seeds(
    scenes: _Scenes, methods: list[Method], model: nn.Module, untrained: nn.Module
) -> Iterator[tuple[list[SeedMaps], Tensor]]:
    """Yield (seeds of every method, true masks) per batch. Results that several methods share are computed once."""
    for images, masks, present in scenes.batches():
        trained_views = {views: run_views(model, images, views) for views in {m.config.views for m in methods}}
        untrained_views = {
            views: run_views(untrained, images, views) for views in {m.config.views for m in methods if m.untrained}
        }
        unrefined: dict[tuple[SeedConfig, bool, str | None], SeedMaps] = {}
        classes: dict[tuple[int, bool], Tensor] = {}
        found = []
        for method in methods:
            plain, views = dataclasses.replace(method.config, polish=False), method.config.views
            key, kind = (plain, method.untrained, method.grad_cam), (views, plain.method == "cam")
            if key not in unrefined and method.grad_cam is not None:
                unrefined[key] = SeedMaps(grad_cam(model, images, present, method.grad_cam))
            elif key not in unrefined:
                if kind not in classes:
                    classes[kind] = class_maps(trained_views[views], present, plain)
                cut = untrained_views[views] if method.untrained else None
                unrefined[key] = seed_maps(trained_views[views], classes[kind], plain, cut_maps=cut)
            polish, size = method.config.polish, (images.shape[2], images.shape[3])
            found.append(unrefined[key].refined_by_pamr(images) if polish else unrefined[key].at(size))
        yield found, masks


def _classifier(config: Comparison, seed: int, folder: Path) -> GLNet:
    """Read the classifier from `folder`, or train and save it."""
    path = folder / "classifier"
    if not path.exists():
        data = ScenesData(config.scenes, config.train_count, config.held_out, 1, seed=seed)
        task = Classification(
            model=config.model, model_args=config.model_args, multi_label=True, **config.recipe.task_arguments(seed)
        )
        train_on_scenes(task, data, config.recipe, every_epoch=False)
        assert isinstance(task.model, GLNet)
        save_model(task.model.cpu(), path)
    model: GLNet = timm.create_model(f"local-dir:{path}", pretrained=True).eval()
    return model


def _untrained(config: Comparison, seed: int) -> nn.Module:
    """Create the classifier with random weights."""
    torch.manual_seed(seed)
    model: nn.Module = timm.create_model(config.model, num_classes=config.scenes.num_classes, **config.model_args)
    return model.eval()


def _measure(config: Comparison, model: nn.Module, untrained: nn.Module) -> dict[str, Any]:
    """Return {method name: threshold, mean IoU, IoU per class, and mean IoU over thresholds on the test scenes}."""
    methods, classes = seed_methods(config), config.scenes.num_classes + 1
    curves = {}
    for part, (split, start, count) in {
        "held out": ("train", config.train_count, config.held_out),
        "test": ("test", 0, config.test_count),
    }.items():
        seeds = list(_seeds(_Scenes(config, split, start, count), methods, model, untrained))  # type: ignore[arg-type]
        curves[part] = [curve_of(((maps[k], masks) for maps, masks in seeds), classes) for k in range(len(methods))]
    found = {}
    for method, held_out, test in zip(methods, curves["held out"], curves["test"], strict=True):
        scores = test.at(held_out.best)
        found[method.name] = {
            "threshold": held_out.best,
            "mean_iou": float(scores.mean_iou),
            "iou": [float(value) for value in scores.iou],
            "curve": [round(float(value), 4) for value in test.mean_iou],
        }
    return found


def threshold_choices(
    config: Comparison, seed: int, folder: Path, names: Sequence[str]
) -> dict[str, dict[str, tuple[float, float]]]:
    """Compare the background threshold chosen by masks with the one chosen without masks.

    Args:
        config: the comparison.
        seed: seed of the classifier.
        folder: folder of the results of this seed.
        names: names of methods of `seed_methods`.

    Returns:
        {name: {"masks": (threshold, mean IoU on the test scenes), "labels": the same without masks}}.
    """
    folder.mkdir(parents=True, exist_ok=True)
    model, classes = _classifier(config, seed, folder), config.scenes.num_classes + 1
    methods = [method for method in seed_methods(config) if method.name in names]
    held_out = _Scenes(config, "train", config.train_count, config.held_out)
    chosen = list(_seeds(held_out, methods, model, model))
    features = [run_views(model, images).features[0][0] for images, _, _ in held_out.batches()]
    test = list(_seeds(_Scenes(config, "test", 0, config.test_count), methods, model, model))
    found = {}
    for k, method in enumerate(methods):
        by_masks = curve_of(((maps[k], masks) for maps, masks in chosen), classes).best
        shares = [explained_shares(maps[k].score, f) for (maps, _), f in zip(chosen, features, strict=True)]
        by_labels = THRESHOLDS[int(torch.cat(shares).mean(0).argmax())]
        curve = curve_of(((maps[k], masks) for maps, masks in test), classes)
        pairs = {"masks": by_masks, "labels": by_labels}
        found[method.name] = {name: (t, float(curve.at(t).mean_iou)) for name, t in pairs.items()}
    return found


class _PseudoMaskData(SceneMaskData):
    """Scenes with the given training masks instead of the true ones; None keeps the true masks."""

    def __init__(self, masks: Tensor | None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.masks = masks

    def setup(self, stage: str | None = None) -> None:
        super().setup(stage)
        if self.masks is not None and "train" in self.splits:
            self.splits["train"].targets = self.masks.to(self.splits["train"].targets.dtype)


def _segmenter(config: Comparison, seed: int, folder: Path, masks: Tensor | None) -> dict[str, Any]:
    """Train a segmenter on these masks, or on the true masks if None, and evaluate it on the test scenes."""
    data = _PseudoMaskData(
        masks, scenes=config.scenes, train_count=config.pseudo_count, val_count=1, batch_size=32, seed=seed
    )
    task = Segmentation(
        model=config.model,
        model_args={name: value for name, value in config.model_args.items() if name != "output_stride"},
        decoder="fpn",
        decoder_args=config.decoder_args,
        checkpoint=str(folder / "classifier" / "model.safetensors"),
        optimizer=OptimizerConfig(lr=config.segmenter.lr, base_batch=None, weight_decay=config.segmenter.weight_decay),
        schedule=ScheduleConfig(warmup_epochs=config.segmenter.warmup * config.segmenter.epochs),
        seed=seed,
    )
    train_on_scenes(task, data, config.segmenter, every_epoch=False)
    network, classes = task.model.cpu().eval(), config.scenes.num_classes + 1
    counts = torch.zeros(classes, classes, dtype=torch.int64)
    examples = []
    with torch.inference_mode():
        for images, truth, _ in _Scenes(config, "test", 0, config.test_count).batches():
            predicted = label_map(segment(network, images, task.inference))
            examples.append(predicted)
            counts += torch.bincount((truth * classes + predicted).flatten(), minlength=classes**2).view(counts.shape)
    scores = scores_of(counts)
    torch.save(torch.cat(examples)[:8].to(torch.uint8), folder / f"examples-{'true' if masks is None else 'pseudo'}.pt")
    return {"mean_iou": float(scores.mean_iou), "iou": [float(value) for value in scores.iou]}


def _pseudo_masks(config: Comparison, method: Method, threshold: float, model: nn.Module) -> Tensor:
    """Return pseudo masks (N, H, W) of the segmenter's training scenes, from their images and image labels."""
    scenes = _Scenes(config, "train", 0, config.pseudo_count)
    return torch.cat([maps[0].masks(threshold) for maps, _ in _seeds(scenes, [method], model, model)])


PSEUDO_MASKS_FROM = ("CAM", "SlotCut + PAMR, 8 views")


def run_seed(config: Comparison, seed: int, folder: Path, report: Callable[[str], None]) -> dict[str, Any]:
    """Run the comparison for one seed, or read its finished parts from `folder`.

    Args:
        config: the comparison.
        seed: seed of the networks.
        folder: folder of the results of this seed.
        report: callback with the name of each step before it starts.

    Returns:
        {"seeds": {method name: result}, "segmenters": {training masks: result}}.

    Raises:
        InputError: the folder contains results with other settings.
    """
    folder.mkdir(parents=True, exist_ok=True)
    settings = json.loads(json.dumps({**dataclasses.asdict(config), "seed": seed, "thresholds": THRESHOLDS}))

    def cached(name: str, compute: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        path = folder / f"{name}.json"
        if path.exists():
            saved = json.loads(path.read_text())
            if saved["settings"] != settings:
                raise InputError(f"{path} has results with other settings: choose another folder, or delete the file.")
            result: dict[str, Any] = saved["result"]
            return result
        result = compute()
        write_atomically(path, json.dumps({"settings": settings, "result": result}) + "\n")
        return result

    report("classifier")
    model = _classifier(config, seed, folder)
    report("seeds")
    seeds = cached("seeds", lambda: _measure(config, model, _untrained(config, seed)))
    found: dict[str, dict[str, Any]] = {}
    methods = {method.name: method for method in seed_methods(config)}
    for name in PSEUDO_MASKS_FROM:
        report(f"segmenter trained on {name}")
        threshold = seeds[name]["threshold"]

        def train(name: str = name, threshold: float = threshold) -> dict[str, Any]:
            return _segmenter(config, seed, folder, _pseudo_masks(config, methods[name], threshold, model))

        found[name] = cached(f"segmenter-{len(found)}", train)
    report("segmenter trained on the true masks")
    found["true masks"] = cached("segmenter-true", lambda: _segmenter(config, seed, folder, None))
    return {"seeds": seeds, "segmenters": found}


def examples(config: Comparison, seed: int, folder: Path, count: int) -> dict[str, Tensor]:
    """Return {step: maps (count, H, W)} of the first test scenes, for a seed that `run_seed` has finished."""
    thresholds = json.loads((folder / "seeds.json").read_text())["result"]
    methods = {method.name: method for method in seed_methods(config)}
    chosen = {"CAM": methods["CAM"], "SlotCut": methods[PSEUDO_MASKS_FROM[-1]]}
    model = _classifier(config, seed, folder)
    maps, _ = next(_seeds(_Scenes(config, "test", 0, count), list(chosen.values()), model, model))
    found: dict[str, Tensor] = {}
    for (name, method), seeds in zip(chosen.items(), maps, strict=True):
        found[f"{name}: score"] = seeds.score
        found[f"{name}: mask"] = seeds.masks(thresholds[method.name]["threshold"])
    found["segmenter"] = torch.load(folder / "examples-pseudo.pt", weights_only=True)[:count].long()
    return found
