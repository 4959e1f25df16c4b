"""Markdown tables of the finished results."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from glmix.slots.grouping.report import markdown_table
from studies.cutouts.classify import METHODS
from studies.cutouts.dense import BACKBONES

__all__ = ["report"]

PROBES = ("probe_val", "probe")  # accuracy of linear probes on the validation and the test split
DENSE = {
    "segmentation": {"mean_iou": "mIoU", "foreground_iou": "foreground IoU"},
    "detection": {"box_AP50": "AP50", "box_AP": "AP"},
}


def report(results: Path) -> str:
    """Return the tables of all finished results, with the machine that measured them."""
    parts = [_machine(results), _classification(results)]
    parts += [_dense(results, task, columns) for task, columns in DENSE.items()]
    parts += [_weak(results), _slots(results)]
    return "\n\n".join(part for part in parts if part)


def _read(folder: Path, pattern: str) -> list[dict[str, Any]]:
    return [json.loads(file.read_text()) for file in sorted(folder.glob(pattern))]


def _machine(results: Path) -> str:
    lines = []
    for found in _read(results, "*-steps.json"):
        machine, times = found["machine"], found["seconds_per_step"]
        steps = ", ".join(f"{kind} {1000 * seconds:.0f} ms" for kind, seconds in times.items())
        lines.append(
            f"{machine['cpu']}, {machine['threads']} thread, load average {machine['load_average']:.1f} on "
            f"{machine['cores']} cores; CPU time per step: {steps}."
        )
    return "\n".join(lines)


def _classification(results: Path) -> str:
    rows = []
    for method, what in METHODS.items():
        runs = _read(results / "classify", f"{method}-seed*.json")
        if not runs:
            continue
        trainings = runs[0]["trainings"]
        rows.append(
            [
                what,
                " + ".join(str(training["steps"]) for training in trainings) or "-",
                f"{np.mean([sum(t['cpu_seconds'] for t in run['trainings']) for run in runs]):.0f}",
                _spread([run["accuracy"] for run in _read(results / "train", f"{method}-seed*.json")]),
                _spread([run["accuracy"] for run in runs if "accuracy" in run]),
                *(_spread([run["features"][key] for run in runs if "features" in run]) for key in PROBES),
                *(_spread([run["final"][key] for run in runs if "final" in run]) for key in PROBES),
                str(len(runs)),
            ]
        )
    teacher = results / "classify" / "teacher.json"
    if teacher.is_file():
        probe = json.loads(teacher.read_text())["features"]
        rows.append(["the teacher", "-", "-", "-", "-", *(_spread([probe[key]]) for key in PROBES), "-", "-", "1"])
    if not rows:
        return ""
    probes = [f"probe {when}, {split}" for when in ("before", "after") for split in ("val", "test")]
    head = ["training", "steps", "CPU s", "accuracy, train", "accuracy, test", *probes, "seeds"]
    return markdown_table(head, rows, left=1)


def _spread(values: Sequence[float]) -> str:
    """Return the mean in percent, and the standard deviation if there are several values."""
    if not values:
        return "-"
    mean = f"{100 * np.mean(values):.1f}"
    return mean if len(values) == 1 else f"{mean} ± {100 * np.std(values, ddof=1):.1f}"


def _dense(results: Path, task: str, columns: dict[str, str]) -> str:
    """Return the table of the backbones in a dense task; `columns` are {score in the results: title}."""
    rows = []
    for name in BACKBONES:
        runs = _read(results / task, f"{name}-seed*.json")
        if runs:
            rows.append(
                [
                    name,
                    f"{runs[0]['parameters'] / 1e6:.1f}M",
                    str(runs[0]["steps"]),
                    f"{np.mean([run['cpu_seconds'] for run in runs]):.0f}",
                    *(_spread([run[score] for run in runs]) for score in columns),
                    str(len(runs)),
                ]
            )
    head = [f"{task}: backbone", "parameters", "steps", "CPU s", *columns.values(), "seeds"]
    return markdown_table(head, rows, left=1) if rows else ""


def _weak(results: Path) -> str:
    """Return the scores of the seeds of all classifiers, and how often the object side of a cut is right."""
    runs = _read(results / "weak", "*-seed*.json")
    if not runs:
        return ""
    names = [f"{run['method']} {run['seed']}" for run in runs]
    scores = [(score, title) for score, title in (("mean_iou", "mIoU"), ("foreground_iou", "foreground IoU"))]
    seeds = markdown_table(
        ["seeds", *(f"{title}, {name}" for _, title in scores for name in names)],
        [
            [row, *(f"{100 * run['seeds'][row][score]:.1f}" for score, _ in scores for run in runs)]
            for row in runs[0]["seeds"]
        ],
        left=1,
    )
    sides = markdown_table(
        ["in % of the images", *names],
        [[rule, *(f"{100 * run['right_side'][rule]:.0f}" for run in runs)] for rule in runs[0]["right_side"]],
        left=1,
    )
    return f"{seeds}\n\n{sides}"


def _slots(results: Path) -> str:
    files = [results / "slots" / name for name in ("scores.md", "discovery.md")]
    return "\n\n".join(file.read_text().strip() for file in files if file.is_file())
