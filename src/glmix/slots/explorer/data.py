"""What the page shows, gathered in one pass through each model: maps in 8 bit, predictions, evidence by slot.

Letters: S slots, N pixels of a block's grid, K classes; a page shows one image, so there is no batch.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

from ...data.classification.views import VIEW_NAMES
from ...errors import InputError
from ..cam import class_activation
from ..evidence import slot_evidence
from ..maps import BlockMaps, slot_maps
from ..measures import effective_slots_per_image, effective_slots_per_pixel, strongest_slots
from .pack import Buffer
from .picture import data_uri, prepare

__all__ = ["MAX_PIXELS", "Labels", "gather", "shown_maps"]

Labels = Callable[[int], str]

MAX_PIXELS = 64 * 64  # of a map in the page; finer ones are averaged, so that no image makes a page heavy


def gather(
    image: Image.Image,
    models: Sequence[tuple[str, nn.Module]],
    *,
    label_names: Labels | Sequence[Labels] | None = None,
    blocks: Sequence[int] | None = None,
    size: tuple[int, int] | None = None,
    top: int = 5,
    multi_label: bool = False,
) -> dict[str, Any]:
    """All that the page needs, ready for JSON. The arguments are those of `explore`."""
    if not 1 <= len(models) <= 2:
        raise InputError(f"The explorer shows one model or compares two, got {len(models)}.")
    if top < 1:
        raise InputError(f"top must be 1 or more, got {top}.")
    names = _names(label_names, len(models))
    seen = [_look(image, model, blocks, size) for _, model in models]
    logits = [found.logits for found in seen]
    probabilities = [None if one is None else one.sigmoid() if multi_label else one.softmax(0) for one in logits]
    buffer = Buffer()
    entries = []
    for (name, _), found, own, label in zip(models, seen, probabilities, names, strict=True):
        classes = _classes(own, probabilities, top)
        activation = found.activation
        if activation is not None and not multi_label:
            # a number added to all logits changes no probability: what counts is the lead over the mean of all classes
            activation = activation - activation.mean(1, keepdim=True)
        entries.append(
            {
                "name": name,
                "picture": data_uri(found.picture),
                "view": VIEW_NAMES["crop" if size is None else "whole"],
                "size": {"width": found.size[1], "height": found.size[0]},
                "classes": [{"label": label(c), "index": c, "probability": float(own[c])} for c in classes],  # type: ignore[index]
                "blocks": [_block(maps, activation, classes, buffer) for maps in found.maps],
            }
        )
    return {"models": entries, "multiLabel": multi_label, "buffer": buffer.text()}


def _names(label_names: Labels | Sequence[Labels] | None, count: int) -> list[Labels]:
    """One function for each model: none numbers the classes, one is for all."""
    if label_names is None:
        return [lambda index: f"class {index}"] * count
    if callable(label_names):
        return [label_names] * count
    if len(label_names) != count:
        raise InputError(f"label_names must be one function or one for each of {count} models, got {len(label_names)}.")
    return list(label_names)


@dataclass(frozen=True, eq=False)
class _Seen:
    """One model's pass. Without a classifier it has neither logits (K,) nor an activation (1, K, h, w)."""

    picture: Image.Image
    size: tuple[int, int]
    maps: list[BlockMaps]
    logits: Tensor | None
    activation: Tensor | None


def _look(image: Image.Image, model: nn.Module, blocks: Sequence[int] | None, size: tuple[int, int] | None) -> _Seen:
    images, picture = prepare(image, model, size)
    like = next(model.parameters())
    images = images.to(device=like.device, dtype=like.dtype)
    outputs: list[Any] = []
    handle = model.register_forward_hook(lambda module, args, output: outputs.append(output))
    try:
        maps = slot_maps(model, images, blocks)
    finally:
        handle.remove()
    output, size = outputs[-1], (images.shape[2], images.shape[3])
    if not (isinstance(output, Tensor) and output.ndim == 2 and getattr(model, "num_classes", 0) > 0):
        return _Seen(picture, size, maps, None, None)
    if not output.isfinite().all():
        raise InputError("The model answers with numbers that are not finite: there is nothing to show.")
    try:
        activation = class_activation(model, images).float().cpu()
    except ValueError:  # it cannot be told, such as behind another pooling than the mean: predictions without evidence
        activation = None
    return _Seen(picture, size, maps, output[0].float().cpu(), activation)


def _classes(own: Tensor | None, all_of_them: Sequence[Tensor | None], top: int) -> list[int]:
    """The most probable classes, the likeliest first, and those of the other model where both know the same ones."""
    if own is None:
        return []
    chosen: set[int] = set()
    for probabilities in all_of_them:
        if probabilities is not None and len(probabilities) == len(own):
            chosen |= set(probabilities.topk(min(top, len(own))).indices.tolist())
    return sorted(chosen, key=lambda index: (-float(own[index]), index))


def shown_maps(maps: BlockMaps) -> tuple[tuple[int, int], Tensor, Tensor]:
    """The grid (rows, columns) that a page shows, and on it clustering and assignment (S, N), which sum to one.

    Grids of more than `MAX_PIXELS` are coarsened by whole numbers: a pixel of the page takes the weights of the
    pixels under it together, and their assignments on average.
    """
    clustering = maps.clustering[0].float().cpu().unflatten(1, maps.grid)  # (S, rows, columns)
    assignment = maps.assignment[0].float().cpu().unflatten(1, maps.grid)
    factor = 1
    while -(-maps.grid[0] // factor) * -(-maps.grid[1] // factor) > MAX_PIXELS:
        factor += 1
    if factor > 1:
        clustering = F.avg_pool2d(_filled_up(clustering, factor), factor) * factor**2
        assignment = F.avg_pool2d(assignment, factor, ceil_mode=True, count_include_pad=False)
    grid = (clustering.shape[1], clustering.shape[2])
    return grid, clustering.flatten(1), assignment.flatten(1)


def _filled_up(x: Tensor, factor: int) -> Tensor:
    """Zeros below and to the right, until `factor` divides both sides."""
    return F.pad(x, (0, -x.shape[2] % factor, 0, -x.shape[1] % factor))


def _block(maps: BlockMaps, activation: Tensor | None, classes: list[int], buffer: Buffer) -> dict[str, Any]:
    grid, clustering, assignment = shown_maps(maps)
    width = grid[1]
    whole = maps.assignment[:1].float().cpu()
    extent = torch.special.entr(maps.clustering[0].float().cpu()).sum(1).exp() / whole.shape[2]
    shown_effective = effective_slots_per_pixel(assignment.unsqueeze(0))
    block: dict[str, Any] = {
        "name": maps.name,
        "index": maps.index,
        "grid": list(grid),
        "fullGrid": list(maps.grid),
        "slotGrid": list(maps.slot_grid),
        "scale": _rounded(maps.scale),
        "effectivePerPixel": _rounded(float(effective_slots_per_pixel(whole).mean())),
        "effectivePerImage": _rounded(float(effective_slots_per_image(whole))),
        "share": _rounded(whole[0].mean(1).tolist()),
        "extent": _rounded(extent.tolist()),
        "strongest": buffer.add(_as_bytes(strongest_slots(assignment.unsqueeze(0))[0])),
        "effective": buffer.add_rows(shown_effective.numpy(), width),
        "assignment": buffer.add_rows(assignment.numpy(), width),
        "clustering": buffer.add_rows(clustering.numpy(), width),
        "attention": None,
        "evidence": None,
    }
    if maps.attention is not None:
        weights = maps.attention[0].float().cpu()  # (heads, S, S)
        block["attention"] = {"heads": weights.shape[0], **buffer.add_rows(weights.flatten(1).numpy())}
    if activation is not None and classes:
        evidence = slot_evidence(activation[:, classes], whole, maps.grid)[0]  # (K, S)
        block["evidence"] = _rounded(evidence.tolist())
    return block


def _as_bytes(indices: Tensor) -> NDArray[np.uint8]:
    """Indices as pairs of bytes, the low one first."""
    return np.ascontiguousarray(indices.numpy().astype("<u2")).view(np.uint8)


def _rounded(value: Any) -> Any:
    """Five digits are as many as a page can show."""
    if isinstance(value, list):
        return [_rounded(item) for item in value]
    return None if value is None else float(f"{value:.5g}")
