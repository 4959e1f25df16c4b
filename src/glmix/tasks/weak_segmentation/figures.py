"""Pictures of weak segmentation: from an image and its labels to a mask, step by step."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ...data.scenes import Scene, class_colours
from ...errors import InputError, MissingExtraError
from .methods import SeedConfig, class_maps, seed_maps
from .metrics import THRESHOLDS, Curve, curve_of
from .seeds import SeedMaps
from .views import look

try:
    from matplotlib.figure import Figure
except ImportError as error:
    raise MissingExtraError(f"Figures need the extra `train` ({error}): pip install 'glmix[train]'.") from error

__all__ = ["curve_figure", "sheet", "weakseg_sheet"]

BATCH = 50
HEAT = "magma"
SHOWN, JUDGED = 6, 100  # scenes in the picture, and scenes to choose a threshold on and as many to measure it on


def sheet(
    images: NDArray[np.uint8],
    columns: Mapping[str, NDArray[Any]],
    class_names: Sequence[str],
    title: str | None = None,
) -> Figure:
    """A row for each image and a column for each kind of map, with the classes' colours below.

    Args:
        images: (n, H, W, 3).
        columns: {name: maps (n, H, W)}: class indices where they are whole numbers, 0 being the background, and
            otherwise heat from 0 to 1.
        class_names: of the indices from 1.
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
    """Mean IoU over the background threshold: {name: a curve for each seed}, and where the thresholds were chosen."""
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
    """Scenes as a model takes them, with true masks and labels."""

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
    """Plain class activation and SlotCut, of the size of the images."""
    size, found = (tensors.images.shape[2], tensors.images.shape[3]), {}
    parts: dict[str, list[SeedMaps]] = {"CAM": [], "SlotCut": []}
    for images, present in zip(tensors.images.split(BATCH), tensors.present.split(BATCH), strict=True):
        seen, cam = look(model, images, config.views), SeedConfig("cam", views=config.views)
        parts["CAM"].append(seed_maps(seen, class_maps(seen, present, cam), cam).at(size))
        parts["SlotCut"].append(seed_maps(seen, class_maps(seen, present, config), config).at(size))
    for name, maps in parts.items():
        objects = [part.objectness for part in maps if part.objectness is not None]
        found[name] = SeedMaps(torch.cat([part.classes for part in maps]), torch.cat(objects) if objects else None)
    return found


def _curve(maps: SeedMaps, masks: Tensor, part: slice, num_classes: int) -> Curve:
    objectness = None if maps.objectness is None else maps.objectness[part]
    return curve_of([(SeedMaps(maps.classes[part], objectness), masks[part])], num_classes + 1)


def weakseg_sheet(
    model: nn.Module,
    scenes: Sequence[Scene],
    class_names: Sequence[str],
    *,
    count: int = SHOWN,
    config: SeedConfig | None = None,
) -> Figure:
    """The first scenes with what a classifier and its slots make of their labels, which alone it was trained on.

    Background thresholds are chosen on the scenes behind those that are shown, and the mean IoU in the title is that
    of as many scenes behind these.

    Args:
        model: a GLNet that classifies scenes, with its images' mean and standard deviation in `pretrained_cfg`.
        scenes: more than are shown; a hundred to choose thresholds on and a hundred to measure on are used at most.
        class_names: of the model's outputs.
        count: how many are shown.
        config: how seeds are made; None for SlotCut in eight views, whose object is what the border is not: the class
            maps of a network for small images are coarser than objects.
    """
    judged = min(JUDGED, (len(scenes) - count) // 2)
    if judged < 1:
        raise InputError(f"{len(scenes)} scenes are too few to show {count} and to judge by others.")
    classes = len(class_names)
    tensors = _Tensors(model, scenes[: count + 2 * judged], classes)
    seeds = _seeds(model, tensors, config or SeedConfig(views=8, sign="border"))
    columns: dict[str, NDArray[Any]] = {"truth": tensors.masks[:count].numpy()}
    results = []
    for name, maps in seeds.items():
        threshold = _curve(maps, tensors.masks, slice(count, count + judged), classes).best
        held_out = _curve(maps, tensors.masks, slice(count + judged, count + 2 * judged), classes)
        results.append(f"{name} {100 * float(held_out.at(threshold).mean_iou):.0f} %")
        columns[f"{name}: score"] = maps.score[:count].numpy()
        columns[f"{name}: mask"] = maps.masks(threshold)[:count].numpy()
    title = f"Masks from image labels alone; mean IoU on {judged} other scenes: {', '.join(results)}"
    images = np.stack([scene.image for scene in scenes[:count]])
    return sheet(images, columns, class_names, title)
