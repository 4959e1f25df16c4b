"""Plot the learning curves of the recipes segmentation/scenes/segmentation_* and their predictions on test scenes.

    glmix fit --config segmentation/scenes/segmentation_fpn
    glmix fit --config segmentation/scenes/segmentation_upernet
    python -m studies.figures.segmentation out/scenes/segmentation_fpn out/scenes/segmentation_upernet

Prints mean IoU and pixel accuracy on test scenes and writes segmentation-curve.png and segmentation-scenes.jpg
to --out.
"""

import argparse
import csv
import io
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator
from PIL import Image
from torchmetrics.classification import MulticlassConfusionMatrix

from glmix.data.scenes import Scene, SceneConfig, class_colours, draw_scene
from glmix.slots.figure.page import save_figure
from glmix.tasks.segmentation.metrics import scores_of
from glmix.tasks.segmentation.predictor import SegmentationPredictor, overlay

NAMES = {"fpn": "Semantic FPN", "upernet": "UperNet"}
STYLES = {"fpn": ("o-", "#2b5fb0"), "upernet": ("s--", "#b0622b")}


def plot_curves(runs: list[Path]) -> Figure:
    """Plot mean IoU per epoch, and IoU per class after the last epoch."""
    figure = Figure(figsize=(8, 3.4), layout="constrained")
    scores, classes = figure.subplots(1, 2)
    width = 0.8 / len(runs)
    for k, run in enumerate(runs):
        kind = run.name.rsplit("_", 1)[-1]
        style, colour = STYLES[kind]
        with max(run.glob("logs/csv/*/metrics.csv")).open() as file:
            rows = [row for row in csv.DictReader(file) if row["val/mIoU"]]
        scores.plot(
            range(1, len(rows) + 1),
            [100 * float(r["val/mIoU"]) for r in rows],
            style,
            color=colour,
            ms=4,
            label=NAMES[kind],
        )
        last = {name.removeprefix("val/IoU/"): float(v) for name, v in rows[-1].items() if name.startswith("val/IoU/")}
        places = np.arange(len(last)) + (k - (len(runs) - 1) / 2) * width
        classes.barh(places, [100 * v for v in last.values()], width, color=colour)
        classes.set_yticks(range(len(last)), [name.replace("_", " ") for name in last])
    scores.set(ylim=(0, 100), xlabel="epoch", ylabel="mIoU in % on held-out scenes")
    scores.xaxis.set_major_locator(MaxNLocator(integer=True))
    scores.legend(frameon=False, loc="lower right")
    classes.set(xlim=(0, 100), xlabel="IoU in % after the last epoch")
    classes.invert_yaxis()
    for axes in (scores, classes):
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
    return figure


def plot_predictions(scenes: list[Scene], config: SceneConfig, networks: dict[str, SegmentationPredictor]) -> Figure:
    """Draw scenes, their ground truth and the prediction of each network, coloured by class."""
    names = ["background", *config.class_names]
    rows = ["image", "truth", *networks]
    figure = Figure(figsize=(1.55 * len(scenes) + 0.5, 1.55 * len(rows) + 0.5), layout="constrained")
    cells = figure.subplots(len(rows), len(scenes), squeeze=False)
    shown: set[int] = set()
    for column, scene in enumerate(scenes):
        image = Image.fromarray(scene.image)
        masks = {"truth": scene.semantic, **{name: predict(image).labels for name, predict in networks.items()}}
        for row, name in enumerate(rows):
            cell = cells[row, column]
            cell.set(xticks=[], yticks=[])
            if column == 0:
                cell.set_ylabel(name)
            if name == "image":
                cell.imshow(image)
                continue
            shown |= set(np.unique(masks[name]).tolist())
            large = image.resize((4 * image.width, 4 * image.height), Image.Resampling.BICUBIC)
            labels = masks[name].repeat(4, 0).repeat(4, 1)
            cell.imshow(np.asarray(overlay(large, labels, names, strength=0.6))[: large.height])
    colours = class_colours(config.num_classes) / 255
    figure.legend(
        handles=[Patch(color=colours[k], label=names[k].replace("_", " ")) for k in sorted(shown) if k],
        loc="outside lower center",
        ncols=6,
        frameon=False,
        fontsize=9,
    )
    return figure


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path, help="run folders whose names end in _fpn or _upernet")
    parser.add_argument("--out", type=Path, default=Path("docs/images"), help="output folder (%(default)s)")
    parser.add_argument("--count", type=int, default=200, help="number of test scenes (%(default)s)")
    args = parser.parse_args()
    config = SceneConfig(size=96)
    scenes = [draw_scene(config, "test", index) for index in range(args.count)]
    networks = {}
    for run in args.runs:
        name = NAMES[run.name.rsplit("_", 1)[-1]]
        predict = SegmentationPredictor.from_checkpoint(run / "checkpoints" / "best.ckpt")
        metric = MulticlassConfusionMatrix(config.num_classes + 1)
        for scene in scenes:
            labels = torch.from_numpy(predict(Image.fromarray(scene.image)).labels).long()
            metric.update(labels[None], torch.from_numpy(scene.semantic).long()[None])
        scores = scores_of(metric.compute())
        print(
            f"{name:14s} {scores.mean_iou:6.1%} mIoU, {scores.pixel_accuracy:6.1%} of pixels, {args.count} test scenes"
        )
        networks[name] = predict
    args.out.mkdir(parents=True, exist_ok=True)
    save_figure(plot_curves(args.runs), args.out / "segmentation-curve.png")
    buffer = io.BytesIO()
    plot_predictions(scenes[:7], config, networks).savefig(buffer, dpi=110)
    Image.open(buffer).convert("RGB").save(args.out / "segmentation-scenes.jpg", quality=80)


if __name__ == "__main__":
    main()
