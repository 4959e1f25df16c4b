"""Plot the learning curves of the recipes detection/scenes/detection_* and their predictions on test scenes.

    glmix fit --config detection/scenes/detection_retinanet
    glmix fit --config detection/scenes/detection_mask_rcnn
    python -m studies.figures.detection out/scenes/detection_retinanet out/scenes/detection_mask_rcnn

Prints the average precision on test scenes and writes detection-curve.png and detection-scenes.jpg to --out.
"""

import argparse
import csv
import io
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from PIL import Image

from glmix.data.detection.datamodule import DetectionScenes
from glmix.data.scenes import SceneConfig, draw_scene
from glmix.slots.figure.page import save_figure
from glmix.tasks import load_trained
from glmix.tasks.detection.metrics import CocoScores
from glmix.tasks.detection.predictor import DetectionPredictor, overlay

NAMES = {"retinanet": "RetinaNet", "mask_rcnn": "Mask R-CNN"}
STYLES = {"retinanet": ("s--", "#b0622b"), "mask_rcnn": ("o-", "#2b5fb0")}


def detector_kind(run: Path) -> str:
    """Return the kind of detector from the name of a run folder, such as `retinanet`."""
    return run.name.removeprefix("detection_")


def plot_curves(runs: list[Path]) -> Figure:
    """Plot AP50 and AP per epoch. Curves of masks are paler than those of boxes."""
    figure = Figure(figsize=(8, 3.4), layout="constrained")
    for axes, name in zip(figure.subplots(1, 2), ("AP50", "AP"), strict=True):
        for run in runs:
            style, colour = STYLES[detector_kind(run)]
            with max(run.glob("logs/csv/*/metrics.csv")).open() as file:
                rows = [row for row in csv.DictReader(file) if row["val/box_AP"]]
            for what, alpha in (("box", 1.0), ("mask", 0.45)):
                scores = [100 * float(row[f"val/{what}_{name}"]) for row in rows if row.get(f"val/{what}_{name}")]
                label = (
                    f"{NAMES[detector_kind(run)]}, {what}es"
                    if what == "box"
                    else f"{NAMES[detector_kind(run)]}, {what}s"
                )
                if scores:
                    axes.plot(range(1, len(scores) + 1), scores, style, color=colour, alpha=alpha, ms=4, label=label)
        axes.set(ylim=(0, 102), xlabel="epoch of 4000 scenes", ylabel=f"{name} in % on held-out scenes")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False, loc="lower right", fontsize=9)
    return figure


def evaluate(checkpoint: Path, scenes: SceneConfig, count: int) -> dict[str, float]:
    """Return the COCO metrics of a detector on the first `count` test scenes."""
    network = load_trained(checkpoint)
    data = DetectionScenes(scenes, test_count=count, batch_size=8)
    data.setup("test")
    scores = CocoScores(scenes.class_names, masks=hasattr(network, "roi_heads"))
    for images, targets in data.test_dataloader():
        with torch.inference_mode():
            scores.update(network(images), targets)
    return scores.compute()


def plot_predictions(scenes: SceneConfig, predictors: dict[str, DetectionPredictor], count: int) -> Figure:
    """Draw the first test scenes, and the predictions of each detector below them."""
    rows = ["image", *predictors]
    figure = Figure(figsize=(1.9 * count + 0.3, 1.9 * len(rows)), layout="constrained")
    cells = figure.subplots(len(rows), count, squeeze=False)
    for column in range(count):
        image = Image.fromarray(draw_scene(scenes, "test", column).image)
        for cell, name in zip(cells[:, column], rows, strict=True):
            shown = image if name == "image" else overlay(image, predictors[name](image), predictors[name].class_names)
            cell.imshow(np.asarray(shown))
            cell.set(xticks=[], yticks=[])
            if column == 0:
                cell.set_ylabel(name)
    return figure


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "runs", nargs="+", type=Path, help="run folders named detection_retinanet or detection_mask_rcnn"
    )
    parser.add_argument("--out", type=Path, default=Path("docs/images"), help="output folder (%(default)s)")
    parser.add_argument("--count", type=int, default=300, help="number of test scenes (%(default)s)")
    args = parser.parse_args()
    scenes = SceneConfig(size=96)
    predictors = {}
    for run in args.runs:
        name = NAMES[detector_kind(run)]
        checkpoint = run / "checkpoints" / "best.ckpt"
        predictors[name] = DetectionPredictor.from_checkpoint(checkpoint)
        scores = evaluate(checkpoint, scenes, args.count)
        shown = [key for key in scores if key.endswith(("AP", "AP50", "AP75"))]
        text = ", ".join(f"{key.replace('_', ' ')} {100 * scores[key]:.1f}" for key in shown)
        print(f"{name}: {text}; {args.count} test scenes")
    args.out.mkdir(parents=True, exist_ok=True)
    save_figure(plot_curves(args.runs), args.out / "detection-curve.png")
    buffer = io.BytesIO()
    plot_predictions(scenes, predictors, 6).savefig(buffer, dpi=110)
    Image.open(buffer).convert("RGB").save(args.out / "detection-scenes.jpg", quality=80)


if __name__ == "__main__":
    main()
