"""Figures of the demo, drawn without a display and without pyplot's global state."""

from collections.abc import Mapping, Sequence
from itertools import cycle

import numpy as np
from numpy.typing import NDArray

from ..data.scenes import Scene
from ..errors import needs_extra
from ..training.short_training import Epoch

with needs_extra("train", "figures"):
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

__all__ = ["Figure", "learning_curve", "prediction_sheet"]

RIGHT, WRONG = "#1a7a3c", "#c22b2b"
STYLES = ("--", "-.", ":")
BLUE, GREY = "#2b5fb0", "#777777"


def learning_curve(epochs: Sequence[Epoch], baselines: Mapping[str, float]) -> Figure:
    """Plot validation accuracy with the baselines, and training and validation loss, over epochs."""
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    score, loss = figure.subplots(1, 2)
    numbers = [epoch.number for epoch in epochs]
    score.plot(numbers, [100 * epoch.score for epoch in epochs], "o-", color=BLUE, ms=4)
    for (name, value), style in zip(sorted(baselines.items(), key=lambda item: -item[1]), cycle(STYLES), strict=False):
        score.axhline(100 * value, color=GREY, lw=1.2, ls=style, label=name)
    score.legend(loc="center right", bbox_to_anchor=(1, 0.7), frameon=False)
    score.set(ylim=(0, 102), xlabel="epoch", ylabel="accuracy in % on scenes not trained on")
    loss.plot(numbers, [epoch.train_loss for epoch in epochs], "o-", color=GREY, ms=4, label="training")
    loss.plot(numbers, [epoch.val_loss for epoch in epochs], "o-", color=BLUE, ms=4, label="scenes not trained on")
    loss.set(xlabel="epoch", ylabel="cross-entropy")
    loss.set_ylim(0, 1.05 * max(max(epoch.train_loss, epoch.val_loss) for epoch in epochs))
    loss.legend(frameon=False)
    for axes in (score, loss):
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
    return figure


def prediction_sheet(
    scenes: Sequence[Scene], probabilities: NDArray[np.float32], names: Sequence[str], columns: int = 8
) -> Figure:
    """Draw the first scenes in three rows, then the wrong predictions with the highest confidence.

    Args:
        scenes: test scenes.
        probabilities: class probabilities (N, K).
        names: class names.
        columns: scenes per row.
    """
    labels = np.array([scene.labels[0] for scene in scenes])
    predicted = probabilities.argmax(1)
    wrong = np.flatnonzero(predicted != labels)
    worst = wrong[np.argsort(-probabilities[wrong, predicted[wrong]], kind="stable")][: 2 * columns]
    first = np.arange(min(3 * columns, len(scenes)))
    heads = [f"The first {len(first)} held-out scenes", f"{len(wrong)} of {len(scenes):,} are wrong"]
    heads[1] += ", the most confident mistakes first" if len(worst) else ""
    rows = [max(1, -(-len(part) // columns)) for part in (first, worst)]
    figure = Figure(figsize=(1.45 * columns, 1.75 * sum(rows) + 0.9), layout="constrained")
    halves = list(figure.subfigures(2, 1, squeeze=False, height_ratios=rows).flat)
    for half, part, head, count in zip(halves, (first, worst), heads, rows, strict=True):
        half.suptitle(head, x=0.01, ha="left", weight="bold")
        cells = half.subplots(count, columns, squeeze=False).ravel()
        for cell in cells:
            cell.set_axis_off()
        for cell, k in zip(cells, part, strict=False):
            _show(cell, scenes[k], names[predicted[k]], names[labels[k]], float(probabilities[k, predicted[k]]))
    return figure


def _show(cell: Axes, scene: Scene, predicted: str, label: str, confidence: float) -> None:
    """Draw a scene under its predicted class and confidence, and under the true class if the prediction is wrong."""
    right = predicted == label
    colour = RIGHT if right else WRONG
    text = f"\N{CHECK MARK} {predicted} {confidence:.0%}" if right else f"\N{BALLOT X} {predicted} {confidence:.0%}"
    if not right:
        text += f"\nis {label}"
    cell.imshow(scene.image)
    cell.set_title(text.replace("_", " "), fontsize=7.5, color=colour, pad=3)
    cell.set_axis_on()
    cell.set(xticks=[], yticks=[])
    for spine in cell.spines.values():
        spine.set(color=colour, linewidth=2.5)
