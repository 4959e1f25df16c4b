"""Weak segmentation of scenes over several seeds: seeds of every kind, and segmenters that learn from them.

    python -m studies.weak_segmentation --seeds 0 1 2
    python -m studies.weak_segmentation --thresholds --seeds 0

Prints the tables of docs/weak_segmentation.md, and writes weakseg-curve.png and weakseg-scenes.png to --out. Thresholds
are chosen on scenes of the training split that nothing was trained on, every number is of the test split. What is finished
stays in --out, so a run that was stopped goes on. With --thresholds it only trains the classifiers and prints the table
of thresholds that are chosen by masks and without masks.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch

from glmix.data.scenes import Scene, draw_scene
from glmix.demo.figures import Figure, save_figure
from studies.weak_segmentation.comparison import Comparison, carry_out, examples, threshold_choices

CURVES = ("CAM", "CAM, 8 views", "SlotCut", "SlotCut, 8 views", "cut of dense features, 8 views")
CHOSEN = ("CAM", "refined by slots", "SlotCut", "SlotCut + PAMR", "SlotCut + PAMR, 8 views")
SHOWN = 6
Result = dict[str, Any]


def line(name: str, values: list[float], over: list[float] | None = None) -> str:
    """A row of the table: the mean, each seed, and what is gained over other values."""
    cells = [name, f"{100 * np.mean(values):.1f}", *(f"{100 * value:.1f}" for value in values)]
    if over is not None:
        gains = [100 * (value - other) for value, other in zip(values, over, strict=True)]
        cells.append(f"{np.mean(gains):+.1f} ({min(gains):+.1f} to {max(gains):+.1f})")
    return "| " + " | ".join(cells) + " |"


def tables(results: dict[int, Result]) -> str:
    numbers = " | ".join(f"seed {seed}" for seed in results)
    rule = "|---" * (len(results) + 3) + "|"
    every = list(results.values())

    def of(part: str, name: str) -> list[float]:
        return [result[part][name]["mean_iou"] for result in every]

    plain, dense = of("seeds", "CAM"), of("seeds", "cut of dense features, 8 views")
    lines = [f"| seeds from | mean | {numbers} | over CAM (lowest to highest) |", rule]
    lines += [line(name, of("seeds", name), plain) for name in every[0]["seeds"]]
    lines += ["", "SlotCut, 8 views, over the cut of dense features, 8 views:"]
    lines += ["", f"| | mean | {numbers} | gain |", rule, line("SlotCut", of("seeds", "SlotCut, 8 views"), dense)]
    truth = of("segmenters", "true masks")
    lines += ["", f"| segmenter from | mean | {numbers} | share of the fully supervised |", rule]
    for name in every[0]["segmenters"]:
        values = of("segmenters", name)
        lines.append(f"{line(name, values)} {100 * np.mean(values) / np.mean(truth):.0f} % |")
    return "\n".join(lines)


def threshold_table(config: Comparison, seeds: list[int], out: Path) -> str:
    lines = ["| seeds from | network | by masks | without masks | difference |", "|---|---|---|---|---|"]
    for seed in seeds:
        for name, found in threshold_choices(config, seed, out / f"seed{seed}", CHOSEN).items():
            cells = [f"{100 * iou:.1f} (at {threshold:.2f})" for threshold, iou in found.values()]
            difference = 100 * (found["labels"][1] - found["masks"][1])
            lines.append(f"| {name} | seed {seed} | {' | '.join(cells)} | {difference:+.1f} |")
    return "\n".join(lines)


def curves(results: dict[int, Result]) -> Figure:
    from glmix.tasks.weak_segmentation.figures import curve_figure

    found = {name: [result["seeds"][name] for result in results.values()] for name in CURVES}
    return curve_figure(
        {name: [way["curve"] for way in ways] for name, ways in found.items()},
        {name: [way["threshold"] for way in ways] for name, ways in found.items()},
    )


def picture(config: Comparison, seed: int, folder: Path) -> Figure:
    """Some test scenes, with what each step makes of them, for one seed."""
    from glmix.tasks.weak_segmentation.figures import sheet

    scenes: list[Scene] = [draw_scene(config.scenes, "test", index) for index in range(SHOWN)]
    columns = {"truth": np.stack([scene.semantic for scene in scenes]).astype(int)}
    columns |= {name: maps[:SHOWN].numpy() for name, maps in examples(config, seed, folder, SHOWN).items()}
    return sheet(np.stack([scene.image for scene in scenes]), columns, config.scenes.class_names)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2], help="a network each")
    parser.add_argument("--out", type=Path, default=Path("out/weakseg/compare"), help="where what is finished stays")
    parser.add_argument("--thresholds", action="store_true", help="only compare thresholds with and without masks")
    args = parser.parse_args()
    torch.set_num_threads(1)
    config = Comparison()
    if args.thresholds:
        print(threshold_table(config, args.seeds, args.out))
        return
    results = {}
    for seed in args.seeds:
        folder = args.out / f"seed{seed}"
        results[seed] = carry_out(
            config, seed, folder, lambda what, seed=seed: print(f"seed {seed}: {what}", flush=True)
        )
    print(tables(results))
    (args.out / "results.json").write_text(json.dumps(results) + "\n")
    save_figure(curves(results), args.out / "weakseg-curve.png")
    save_figure(picture(config, args.seeds[0], args.out / f"seed{args.seeds[0]}"), args.out / "weakseg-scenes.png")


if __name__ == "__main__":
    main()
