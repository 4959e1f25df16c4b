"""Figures of weakly supervised segmentation: images, score maps and masks."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ...data.scenes import Scene, class_colours
from ...errors import InputError, needs_extra
from .methods import SeedConfig, class_maps, seed_maps
from .metrics import THRESHOLDS, Curve, curve_of
from .seeds import SeedMaps
from .views import run_views

with needs_extra("train", "figures"):
    from matplotlib.figure import Figure

__all__ = ["curve_figure", "sheet", "weakseg_sheet"]

BATCH = 50
HEAT = "magma"
SHOWN, EVALUATED = 6, 100  # scenes in the figure; scenes to choose a threshold on, and as many to measure on


def sheet(
    images: NDArray[np.uint8],
    columns: Mapping[str, NDArray[Any]],
    class_names: Sequence[str],
    title: str | None = None,
) -> Figure:
    """Draw one row per image and one column per kind of map, with a legend of class colours below.

    Args:
        images: (n, H, W, 3).
        columns: `{name: maps (n, H, W)}`. Integer maps hold class indices, with 0 for the background; other maps hold
            scores from 0 to 1 and are drawn as heat maps.
        class_names: names of the classes from index 1.
        title: title of the figure.
    """
    from matplotlib.patches import Patch

    colours = class_colours(len(class_names))
    rows, width = len(images), 1 + len(columns)
    figure = Figure(figsize=(1.5 * width, 1.5 * rows + (0.9 if title is None else 1.3)), layout="constrained")
    cells = figure.subplots(rows, width, squeeze=False)
    for r in range(rows):
        cells[r, 0].imshow(images[r])
        for cell, maps in zip(cells[r, 1:], columns.values(), strict=True):
            if np.issubdtype(maps.dtype, np.integer):
                cell.imshow(colours[maps[r]], interpolation="nearest")
            else:
                cell.imshow(maps[r], cmap=HEAT, vmin=0, vmax=1)
    for cell, name in zip(cells[0], ("image", *columns), strict=True):
        cell.set_title(name, fontsize=9)
    for cell in cells.flat:
        cell.set(xticks=[], yticks=[])
        cell.spines[:].set_visible(False)
    patches = [Patch(color=colours[k + 1] / 255, label=name.replace("_", " ")) for k, name in enumerate(class_names)]
    figure.legend(handles=patches, loc="outside lower center", ncols=min(6, len(patches)), frameon=False, fontsize=8)
    if title is not None:
        figure.suptitle(title, fontsize=10)
    return figure


def curve_figure(curves: Mapping[str, Sequence[Sequence[float]]], chosen: Mapping[str, Sequence[float]]) -> Figure:
    """Plot mean IoU over the background threshold.

    Args:
        curves: `{name: one curve per random seed}`.
        chosen: `{name: one chosen threshold per random seed}`.
    """
    figure = Figure(figsize=(7.5, 3.8), layout="constrained")
    axes = figure.add_subplot()
    for k, (name, of_seeds) in enumerate(curves.items()):
        mean = 100 * np.mean(of_seeds, 0)
        axes.plot(THRESHOLDS, mean, color=f"C{k}", label=name)
        axes.fill_between(THRESHOLDS, 100 * np.min(of_seeds, 0), 100 * np.max(of_seeds, 0), color=f"C{k}", alpha=0.15)
        at = float(np.mean(chosen[name]))
        axes.plot([at], [np.interp(at, THRESHOLDS, mean)], "o", color=f"C{k}")
    axes.set(xlabel="background threshold", ylabel="mean IoU in %", xlim=(0, 1), ylim=(0, None))
    axes.legend(frameon=False, fontsize=8)
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    return figure


class _Tensors:
    """Scenes as normalised images (n, 3, H, W), ground truth masks (n, H, W) and multi-hot labels (n, K)."""

    def __init__(self, model: nn.Module, scenes: Sequence[Scene], num_classes: int) -> None:
        cfg: Any = model.pretrained_cfg
        mean, std = (torch.tensor(cfg[name]).view(3, 1, 1) for name in ("mean", "std"))
        pixels = torch.from_numpy(np.stack([scene.image for scene in scenes])).permute(0, 3, 1, 2)
        self.images = (pixels / 255 - mean) / std
        self.masks = torch.from_numpy(np.stack([scene.semantic for scene in scenes])).long()
        self.present = torch.zeros(len(scenes), num_classes)
        for row, scene in zip(self.present, scenes, strict=True):
            row[torch.from_numpy(scene.labels)] = 1


def _seeds(model: nn.Module, tensors: _Tensors, config: SeedConfig) -> dict[str, SeedMaps]:
    """Return CAM seeds and SlotCut seeds at the size of the images."""
    size, found = (tensors.images.shape[2], tensors.images.shape[3]), {}
    parts: dict[str, list[SeedMaps]] = {"CAM": [], "SlotCut": []}
    for images, present in zip(tensors.images.split(BATCH), tensors.present.split(BATCH), strict=True):
        outputs, cam = run_views(model, images, config.views), SeedConfig("cam", views=config.views)
        parts["CAM"].append(seed_maps(outputs, class_maps(outputs, present, cam), cam).at(size))
        parts["SlotCut"].append(seed_maps(outputs, class_maps(outputs, present, config), config).at(size))
    for name, maps in parts.items():
        objects = [part.objectness for part in maps if part.objectness is not None]
        found[name] = SeedMaps(torch.cat([part.classes for part in maps]), torch.cat(objects) if objects else None)
    return found


def _curve(maps: SeedMaps, masks: Tensor, part: slice, num_classes: int) -> Curve:
    """Measure some of the seeds at every threshold."""
    objectness = None if maps.objectness is None else maps.objectness[part]
    return curve_of([(SeedMaps(maps.classes[part], objectness), masks[part])], num_classes + 1)


def weakseg_sheet(model: nn.Module, scenes: Sequence[Scene], class_names: Sequence[str]) -> Figure:
    """Draw the first scenes with their CAM and SlotCut pseudo masks, for a classifier of scenes.

    The classifier was trained on image labels only. Background thresholds are chosen on the scenes after the drawn
    ones. The mean IoU in the title is measured on the same number of scenes after those. Seeds are computed in eight
    views, with the sign from the image border, because the class maps of a network for small images are coarser than
    objects.

    Args:
        model: a GLNet classifier of scenes, with the mean and standard deviation of its images in `pretrained_cfg`.
        scenes: more scenes than are drawn; at most a hundred are used to choose thresholds and a hundred to measure.
        class_names: names of the model's outputs.
    """
    count = SHOWN
    evaluated = min(EVALUATED, (len(scenes) - count) // 2)
    if evaluated < 1:
        raise InputError(f"{len(scenes)} scenes are too few to draw {count} and to evaluate on others.")
    classes = len(class_names)
    tensors = _Tensors(model, scenes[: count + 2 * evaluated], classes)
    seeds = _seeds(model, tensors, SeedConfig(views=8, sign="border"))
    columns: dict[str, NDArray[Any]] = {"truth": tensors.masks[:count].numpy()}
    results = []
    for name, maps in seeds.items():
        threshold = _curve(maps, tensors.masks, slice(count, count + evaluated), classes).best
        held_out = _curve(maps, tensors.masks, slice(count + evaluated, count + 2 * evaluated), classes)
        results.append(f"{name} {100 * float(held_out.at(threshold).mean_iou):.0f} %")
        columns[f"{name}: score"] = maps.score[:count].numpy()
        columns[f"{name}: mask"] = maps.masks(threshold)[:count].numpy()
    title = f"Masks from image labels alone; mean IoU on {evaluated} other scenes: {', '.join(results)}"
    images = np.stack([scene.image for scene in scenes[:count]])
    return sheet(images, columns, class_names, title)
