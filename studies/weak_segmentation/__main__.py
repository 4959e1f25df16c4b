"""Compare weak segmentation methods on scenes with several random seeds.

    python -m studies.weak_segmentation --seeds 0 1 2
    python -m studies.weak_segmentation --thresholds --seeds 0

Prints the tables of docs/weak_segmentation.md and writes weakseg-curve.png and weakseg-scenes.png to --out. Background
thresholds are chosen on held-out scenes of the training split, and all scores are measured on the test split. Finished
results are kept in --out, so the same command resumes an interrupted study. With --thresholds, only the classifiers are
trained, and the table that compares thresholds chosen with and without masks is printed.
"""

import argparse
import json
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from glmix.data.scenes import Scene, draw_scene
from glmix.slots.figure.page import Figure, save_figure
from studies.weak_segmentation.comparison import Comparison, examples, run_seed, threshold_choices

CURVES = ("CAM", "CAM, 8 views", "SlotCut", "SlotCut, 8 views", "cut of dense features, 8 views")
CHOSEN = ("CAM", "refined by slots", "SlotCut", "SlotCut + PAMR", "SlotCut + PAMR, 8 views")
SHOWN = 6
Result = dict[str, Any]


def table_row(name: str, values: list[float], baseline: list[float] | None = None) -> str:
    """Format a row: the mean, the value per seed, and the difference to a baseline."""
    cells = [name, f"{100 * np.mean(values):.1f}", *(f"{100 * value:.1f}" for value in values)]
    if baseline is not None:
        gains = [100 * (value - other) for value, other in zip(values, baseline, strict=True)]
        cells.append(f"{np.mean(gains):+.1f} ({min(gains):+.1f} to {max(gains):+.1f})")
    return "| " + " | ".join(cells) + " |"


def tables(results: dict[int, Result]) -> str:
    """Format the tables of seeds and of segmenters."""
    numbers = " | ".join(f"seed {seed}" for seed in results)
    rule = "|---" * (len(results) + 3) + "|"
    every = list(results.values())

    def of(part: str, name: str) -> list[float]:
        return [result[part][name]["mean_iou"] for result in every]

    plain, dense = of("seeds", "CAM"), of("seeds", "cut of dense features, 8 views")
    lines = [f"| seeds from | mean | {numbers} | difference to CAM (lowest to highest) |", rule]
    lines += [table_row(name, of("seeds", name), plain) for name in every[0]["seeds"]]
    lines += ["", "SlotCut with 8 views compared with the cut of dense features with 8 views:"]
    lines += ["", f"| | mean | {numbers} | difference (lowest to highest) |", rule]
    lines += [table_row("SlotCut", of("seeds", "SlotCut, 8 views"), dense)]
    truth = of("segmenters", "true masks")
    lines += ["", f"| segmenter trained on | mean | {numbers} | relative to full supervision |", rule]
    for name in every[0]["segmenters"]:
        values = of("segmenters", name)
        title = "ground truth masks" if name == "true masks" else name
        lines.append(f"{table_row(title, values)} {100 * np.mean(values) / np.mean(truth):.0f} % |")
    return "\n".join(lines)


def threshold_table(config: Comparison, seeds: list[int], out: Path) -> str:
    """Compare the thresholds chosen with and without masks, and format the table."""
    lines = ["| seeds from | network | `masks` | `labels` | difference |", "|---|---|---|---|---|"]
    for seed in seeds:
        for name, found in threshold_choices(config, seed, out / f"seed{seed}", CHOSEN).items():
            cells = [f"{100 * iou:.1f} (at {threshold:.2f})" for threshold, iou in found.values()]
            difference = 100 * (found["labels"][1] - found["masks"][1])
            lines.append(f"| {name} | seed {seed} | {' | '.join(cells)} | {difference:+.1f} |")
    return "\n".join(lines)


def curves(results: dict[int, Result]) -> Figure:
    """Plot mean IoU over background thresholds."""
    from glmix.tasks.weak_segmentation.figures import curve_figure

    found = {name: [result["seeds"][name] for result in results.values()] for name in CURVES}
    return curve_figure(
        {name: [result["curve"] for result in per_seed] for name, per_seed in found.items()},
        {name: [result["threshold"] for result in per_seed] for name, per_seed in found.items()},
    )


def example_figure(config: Comparison, seed: int, folder: Path) -> Figure:
    """Draw test scenes with the result of each step, for one seed."""
    from glmix.tasks.weak_segmentation.figures import sheet

    scenes: list[Scene] = [draw_scene(config.scenes, "test", index) for index in range(SHOWN)]
    columns = {"truth": np.stack([scene.semantic for scene in scenes]).astype(int)}
    columns |= {name: maps[:SHOWN].numpy() for name, maps in examples(config, seed, folder, SHOWN).items()}
    return sheet(np.stack([scene.image for scene in scenes]), columns, config.scenes.class_names)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--seeds", nargs="+", type=int, default=[0, 1, 2], help="random seeds, one network per seed (%(default)s)"
    )
    parser.add_argument(
        "--out", type=Path, default=Path("out/weakseg/compare"), help="folder of the results (%(default)s)"
    )
    parser.add_argument(
        "--thresholds", action="store_true", help="only compare thresholds chosen with and without masks"
    )
    args = parser.parse_args()
    torch.set_num_threads(1)
    config = Comparison()
    if args.thresholds:
        print(threshold_table(config, args.seeds, args.out))
        return
    results = {}
    for seed in args.seeds:
        folder = args.out / f"seed{seed}"
        print(f"seed {seed}", flush=True)
        results[seed] = run_seed(config, seed, folder, partial(print, flush=True))
    print(tables(results))
    (args.out / "results.json").write_text(json.dumps(results) + "\n")
    save_figure(curves(results), args.out / "weakseg-curve.png")
    save_figure(
        example_figure(config, args.seeds[0], args.out / f"seed{args.seeds[0]}"), args.out / "weakseg-scenes.png"
    )


if __name__ == "__main__":
    main()
