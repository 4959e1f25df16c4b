"""Weak segmentation on scenes, measured: seeds of several kinds from one classifier, and what is learnt from them.

Every threshold is chosen on scenes of the training split that nothing was trained on, by their masks unless it says
otherwise, and every number comes from the test split. Finished results are files, which are read when they exist.
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
from glmix.tasks.weak_segmentation.metrics import THRESHOLDS, curve_of
from glmix.tasks.weak_segmentation.seeds import SeedMaps
from glmix.tasks.weak_segmentation.threshold import explained_shares
from glmix.tasks.weak_segmentation.views import run_views
from glmix.training.optim import OptimizerConfig, ScheduleConfig
from glmix.training.short_training import Recipe, train_on_scenes

__all__ = ["Comparison", "Row", "carry_out", "examples", "rows", "threshold_choices"]

BATCH = 50
GRAD_CAM = ("gradcam++", "layercam")


@dataclass(frozen=True)
class Row:
    """One way to make seeds.

    Args:
        name: in the table.
        config: how; for a method of pytorch-grad-cam its polish alone counts.
        untrained: cut the slots of a network that has learnt nothing.
        grad_cam: the method of pytorch-grad-cam that gives the class maps.
    """

    name: str
    config: SeedConfig
    untrained: bool = False
    grad_cam: str | None = None


@dataclass(frozen=True)
class Comparison:
    """What is compared, and on what.

    Args:
        scenes: what the images look like.
        train_count: scenes that classifiers learn; the `held_out` behind them choose thresholds.
        held_out, test_count: scenes to choose thresholds on, and to report on.
        model, model_args: the classifier.
        recipe: how it learns.
        blocks: whose slots are cut.
        effective: slots of a pixel in effect, in refinement and cut.
        pseudo_count: scenes whose pseudo masks the segmenters learn.
        decoder_args: of the segmenter, an FPN on the classifier's backbone.
        segmenter: how it learns.
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


def rows(config: Comparison) -> list[Row]:
    """All ways, those that look once and those that look eight times."""
    found = [Row(f"pytorch-grad-cam: {name}", SeedConfig("cam"), grad_cam=name) for name in GRAD_CAM]
    for views in (1, 8):
        seen = f", {views} views" if views > 1 else ""

        def way(method: Any, polish: bool = False, views: int = views) -> SeedConfig:
            return SeedConfig(method, config.blocks, effective=config.effective, views=views, polish=polish)

        found += [
            Row(f"CAM{seen}", way("cam")),
            Row(f"CAM + PAMR{seen}", way("cam", True)),
            Row(f"refined by slots{seen}", way("slots")),
            Row(f"SlotCut{seen}", way("slotcut")),
            Row(f"SlotCut + PAMR{seen}", way("slotcut", True)),
            Row(f"cut of untrained slots{seen}", way("slotcut"), untrained=True),
            Row(f"cut of dense features{seen}", way("dense")),
            Row(f"cut of dense features + PAMR{seen}", way("dense", True)),
            Row(f"cut of dense features, stage 1{seen}", dataclasses.replace(way("dense"), stage=1)),
            Row(f"cut of dense features, last stage{seen}", dataclasses.replace(way("dense"), stage=-1)),
        ]
    return found


class _Scenes:
    """Some scenes in a row: images, true masks and which classes they show."""

    def __init__(self, config: Comparison, split: Split, start: int, count: int) -> None:
        data = ScenesData(config.scenes)
        drawn = SceneTensors(config.scenes, split, start + count, "semantic", mean=data.mean, std=data.std)
        self.images, self.masks = drawn.__getitems__(range(start, start + count))
        classes = torch.arange(1, config.scenes.num_classes + 1)
        self.present = (self.masks.flatten(1)[:, None] == classes[:, None]).any(2).float()

    def batches(self) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        yield from zip(self.images.split(BATCH), self.masks.split(BATCH), self.present.split(BATCH), strict=True)


def _seeds(
    scenes: _Scenes, ways: list[Row], model: nn.Module, untrained: nn.Module
) -> Iterator[tuple[list[SeedMaps], Tensor]]:
    """For each batch the seeds of every way, and the true masks. What several ways need is computed once."""
    for images, masks, present in scenes.batches():
        seen = {views: run_views(model, images, views) for views in {way.config.views for way in ways}}
        blank = {
            views: run_views(untrained, images, views) for views in {way.config.views for way in ways if way.untrained}
        }
        before: dict[tuple[SeedConfig, bool, str | None], SeedMaps] = {}
        classes: dict[tuple[int, bool], Tensor] = {}
        found = []
        for way in ways:
            plain, views = dataclasses.replace(way.config, polish=False), way.config.views
            key, kind = (plain, way.untrained, way.grad_cam), (views, plain.method == "cam")
            if key not in before and way.grad_cam is not None:
                before[key] = SeedMaps(grad_cam(model, images, present, way.grad_cam))
            elif key not in before:
                if kind not in classes:
                    classes[kind] = class_maps(seen[views], present, plain)
                cut = blank[views] if way.untrained else None
                before[key] = seed_maps(seen[views], classes[kind], plain, cut_maps=cut)
            polish, size = way.config.polish, (images.shape[2], images.shape[3])
            found.append(before[key].refined_by_pamr(images) if polish else before[key].at(size))
        yield found, masks


def _classifier(config: Comparison, seed: int, folder: Path) -> GLNet:
    """Trained, or read if it is there."""
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
    torch.manual_seed(seed)
    model: nn.Module = timm.create_model(config.model, num_classes=config.scenes.num_classes, **config.model_args)
    return model.eval()


def _measure(config: Comparison, model: nn.Module, untrained: nn.Module) -> dict[str, Any]:
    """{way: threshold, mean IoU, IoU of each class, and the curve on the test scenes}."""
    ways, classes = rows(config), config.scenes.num_classes + 1
    curves = {}
    for part, (split, start, count) in {
        "held out": ("train", config.train_count, config.held_out),
        "test": ("test", 0, config.test_count),
    }.items():
        seeds = list(_seeds(_Scenes(config, split, start, count), ways, model, untrained))  # type: ignore[arg-type]
        curves[part] = [curve_of(((maps[k], masks) for maps, masks in seeds), classes) for k in range(len(ways))]
    found = {}
    for way, held_out, test in zip(ways, curves["held out"], curves["test"], strict=True):
        scores = test.at(held_out.best)
        found[way.name] = {
            "threshold": held_out.best,
            "mean_iou": float(scores.mean_iou),
            "iou": [float(value) for value in scores.iou],
            "curve": [round(float(value), 4) for value in test.mean_iou],
        }
    return found


def threshold_choices(
    config: Comparison, seed: int, folder: Path, names: Sequence[str]
) -> dict[str, dict[str, tuple[float, float]]]:
    """Compare the threshold that masks choose with the one that is chosen without masks.

    Args:
        names: of some of `rows`.

    Returns:
        {name: {"masks": (threshold, mean IoU on the test scenes), "labels": the same}}.
    """
    folder.mkdir(parents=True, exist_ok=True)
    model, classes = _classifier(config, seed, folder), config.scenes.num_classes + 1
    ways = [way for way in rows(config) if way.name in names]
    held_out = _Scenes(config, "train", config.train_count, config.held_out)
    chosen = list(_seeds(held_out, ways, model, model))
    features = [run_views(model, images).features[0][0] for images, _, _ in held_out.batches()]
    test = list(_seeds(_Scenes(config, "test", 0, config.test_count), ways, model, model))
    found = {}
    for k, way in enumerate(ways):
        by_masks = curve_of(((maps[k], masks) for maps, masks in chosen), classes).best
        shares = [explained_shares(maps[k].score, f) for (maps, _), f in zip(chosen, features, strict=True)]
        by_labels = THRESHOLDS[int(torch.cat(shares).mean(0).argmax())]
        curve = curve_of(((maps[k], masks) for maps, masks in test), classes)
        pairs = {"masks": by_masks, "labels": by_labels}
        found[way.name] = {name: (t, float(curve.at(t).mean_iou)) for name, t in pairs.items()}
    return found


class _Pseudo(SceneMaskData):
    """Scenes whose training masks are others than the true ones."""

    def __init__(self, masks: Tensor | None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.masks = masks

    def setup(self, stage: str | None = None) -> None:
        super().setup(stage)
        if self.masks is not None and "train" in self.splits:
            self.splits["train"].targets = self.masks.to(self.splits["train"].targets.dtype)


def _segmenter(config: Comparison, seed: int, folder: Path, masks: Tensor | None) -> dict[str, Any]:
    """A segmenter that learns these masks, or the true ones, measured on the test scenes by the true ones."""
    data = _Pseudo(masks, scenes=config.scenes, train_count=config.pseudo_count, val_count=1, batch_size=32, seed=seed)
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


def _pseudo_masks(config: Comparison, way: Row, threshold: float, model: nn.Module) -> Tensor:
    """(N, H, W) of the scenes that segmenters learn, from their images and labels."""
    scenes = _Scenes(config, "train", 0, config.pseudo_count)
    return torch.cat([maps[0].masks(threshold) for maps, _ in _seeds(scenes, [way], model, model)])


LEARNT_FROM = ("CAM", "SlotCut + PAMR, 8 views")


def carry_out(config: Comparison, seed: int, folder: Path, say: Callable[[str], None]) -> dict[str, Any]:
    """Everything for one seed: {"seeds": {way: ...}, "segmenters": {what they learnt: ...}}."""
    folder.mkdir(parents=True, exist_ok=True)
    settings = json.loads(json.dumps({**dataclasses.asdict(config), "seed": seed, "thresholds": THRESHOLDS}))

    def once(name: str, make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        path = folder / f"{name}.json"
        if path.exists():
            saved = json.loads(path.read_text())
            if saved["settings"] != settings:
                raise InputError(f"{path} was made with other settings: choose another folder, or delete it.")
            result: dict[str, Any] = saved["result"]
            return result
        result = make()
        write_atomically(path, json.dumps({"settings": settings, "result": result}) + "\n")
        return result

    say("classifier")
    model = _classifier(config, seed, folder)
    say("seeds")
    seeds = once("seeds", lambda: _measure(config, model, _untrained(config, seed)))
    found: dict[str, dict[str, Any]] = {}
    ways = {way.name: way for way in rows(config)}
    for name in LEARNT_FROM:
        say(f"a segmenter from {name}")
        threshold = seeds[name]["threshold"]

        def learn(name: str = name, threshold: float = threshold) -> dict[str, Any]:
            return _segmenter(config, seed, folder, _pseudo_masks(config, ways[name], threshold, model))

        found[name] = once(f"segmenter-{len(found)}", learn)
    say("a segmenter from the true masks")
    found["true masks"] = once("segmenter-true", lambda: _segmenter(config, seed, folder, None))
    return {"seeds": seeds, "segmenters": found}


def examples(config: Comparison, seed: int, folder: Path, count: int) -> dict[str, Tensor]:
    """What each step made of the first test scenes, of a seed that was carried out: {step: maps (count, H, W)}."""
    thresholds = json.loads((folder / "seeds.json").read_text())["result"]
    ways = {way.name: way for way in rows(config)}
    chosen = {"CAM": ways["CAM"], "SlotCut": ways[LEARNT_FROM[-1]]}
    model = _classifier(config, seed, folder)
    maps, _ = next(_seeds(_Scenes(config, "test", 0, count), list(chosen.values()), model, model))
    found: dict[str, Tensor] = {}
    for (name, way), seeds in zip(chosen.items(), maps, strict=True):
        found[f"{name}: score"] = seeds.score
        found[f"{name}: mask"] = seeds.masks(thresholds[way.name]["threshold"])
    found["learnt from that"] = torch.load(folder / "examples-pseudo.pt", weights_only=True)[:count].long()
    return found
