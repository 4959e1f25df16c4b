"""Report of an ablation study: a Markdown table, a JSON file and a plot."""

import dataclasses
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import torch

from glmix.files import write_json
from glmix.slots.figure.page import Figure, save_figure
from studies.ablation.speed import IMAGES
from studies.ablation.study import Ablation, plan, variants

__all__ = ["Row", "markdown", "rows", "write_report"]

METRICS = {"top1": "accuracy", "mAP": "mean average precision"}
DOT, MEAN, BASE = "#4878cf", "#1b1b1b", "#b04a4a"


@dataclass(frozen=True)
class Row:
    """One row of the table: one answer of one axis.

    Args:
        axis: name of the axis, such as `clustering`.
        answer: name of the variant on this axis, such as `k-means`.
        is_base: whether its network is the base.
        scores: one score per seed, from 0 to 1.
        images_per_second: inference throughput.
        parameters: number of parameters.
    """

    axis: str
    answer: str
    is_base: bool
    scores: tuple[float, ...]
    images_per_second: float
    parameters: int

    @property
    def mean(self) -> float:
        return statistics.fmean(self.scores)

    @property
    def spread(self) -> float | None:
        """Standard deviation over the seeds; None with a single seed."""
        return statistics.stdev(self.scores) if len(self.scores) > 1 else None


def rows(config: Ablation, results: Sequence[dict[str, Any]], speeds: Mapping[str, float]) -> list[Row]:
    """Return one row per answer, in the order of the configuration.

    Args:
        config: the study.
        results: results of all planned runs, in the order of `plan`.
        speeds: {variant name: images per second}.
    """
    by_name: dict[str, list[dict[str, Any]]] = {}
    for run, result in zip(plan(config), results, strict=True):
        by_name.setdefault(run.variant.name, []).append(result)
    found = {}
    for variant in variants(config):
        of_variant = by_name[variant.name]
        for axis, answer in variant.entries:
            found[axis, answer] = Row(
                axis=axis,
                answer=answer,
                is_base=variant.is_base,
                scores=tuple(result["score"] for result in of_variant),
                images_per_second=speeds[variant.name],
                parameters=of_variant[0]["parameters"],
            )
    return [found[str(axis), str(answer)] for axis, answers in config.axes.items() for answer in answers]


def markdown(table: Sequence[Row], metric: str) -> str:
    """Return the table in Markdown."""
    base = next((row for row in table if row.is_base), None)
    titles = ["design choice", "variant", METRICS[metric], "difference to the base", "images/s", "parameters"]
    lines = [f"| {' | '.join(titles)} |", "|---|---|---|---|---|---|"]
    for axis, group in groupby(table, key=lambda row: row.axis):
        for k, row in enumerate(group):
            difference = ""
            if base is not None:
                pairs = zip(row.scores, base.scores, strict=True)
                difference = "base" if row.is_base else _mean_and_spread([a - b for a, b in pairs], sign="+")
            lines.append(
                f"| {axis if k == 0 else ''} | {row.answer} | {_mean_and_spread(row.scores)} | {difference} | "
                f"{row.images_per_second:,.0f} | {row.parameters:,} |"
            )
    return "\n".join(lines) + "\n"


def write_report(folder: Path, config: Ablation, results: Sequence[dict[str, Any]], speeds: Mapping[str, float]) -> str:
    """Write table.md, table.json and ablation.png to `folder`, and return the contents of table.md."""
    table, metric = rows(config, results, speeds), results[0]["metric"]
    seeds = len(config.seeds)
    spread = ", mean ± standard deviation" if seeds > 1 else ""
    note = (
        f"{METRICS[metric].capitalize()} in % on {config.val_count:,} held-out scenes{spread}: "
        f"{_number(seeds, 'seed')} each, {_number(config.recipe.epochs, 'epoch')} over {config.train_count:,} scenes. "
        "The difference to the base is that between runs with the same seed, which see the same scenes in the same "
        f"order. Images/s: inference with batch size {IMAGES}, {_number(torch.get_num_threads(), 'thread')}, the "
        "fastest batch.\n"
    )
    text = f"{markdown(table, metric)}\n{note}"
    (folder / "table.md").write_text(text)
    contents = {"config": dataclasses.asdict(config), "metric": metric, "rows": [_with_mean(row) for row in table]}
    write_json(folder / "table.json", contents)
    save_figure(_plot(table, metric), folder / "ablation.png")
    return text


def _mean_and_spread(values: Sequence[float], sign: str = "") -> str:
    """Format the mean in %, with the standard deviation if there are several values."""
    mean = round(100 * statistics.fmean(values), 1) + 0.0  # + 0.0 makes -0.0 positive
    return f"{mean:{sign}.1f}" + (f" ± {100 * statistics.stdev(values):.1f}" if len(values) > 1 else "")


def _number(count: int, noun: str) -> str:
    return f"{count} {noun}{'s' * (count != 1)}"


def _with_mean(row: Row) -> dict[str, Any]:
    return {**dataclasses.asdict(row), "mean": row.mean, "spread": row.spread}


def _plot(table: Sequence[Row], metric: str) -> Figure:
    """Plot one dot per seed and one line per mean, grouped by axis."""
    figure = Figure(figsize=(7.5, 1.5 + 0.34 * len(table)), layout="constrained")
    axes = figure.add_subplot()
    places, labels, y = [], [], 0.0
    for axis, group in groupby(table, key=lambda row: row.axis):
        axes.text(0.0, y, f"{axis}  ", ha="right", va="center", weight="bold", transform=axes.get_yaxis_transform())
        for row in group:
            y += 1
            places.append(y)
            labels.append(row.answer)
            axes.plot([100 * score for score in row.scores], [y] * len(row.scores), "o", color=DOT, alpha=0.6, ms=5)
            axes.plot([100 * row.mean] * 2, [y - 0.35, y + 0.35], "-", color=MEAN, lw=2)
        y += 1.4
    base = next((row for row in table if row.is_base), None)
    if base is not None:
        axes.axvline(100 * base.mean, color=BASE, lw=1, ls=":", zorder=0, label="mean of the base")
        figure.legend(loc="outside upper right", frameon=False)
    axes.set_yticks(places, labels)
    axes.set_ylim(places[-1] + 0.7, -0.7)
    axes.set_xlabel(f"{METRICS[metric]} in %: one dot per seed, bar: mean")
    axes.grid(axis="x", alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    return figure
