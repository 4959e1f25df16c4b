"""Data of the explorer page: slot maps in 8 bits, predictions, and class evidence per slot.

Dimensions: S slots, N pixels of a block's grid, K classes. A page shows one image, so there is no batch dimension.
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
from ..evidence import class_activation, slot_evidence
from ..maps import BlockMaps, slot_maps
from ..measures import effective_slots_per_image, effective_slots_per_pixel, strongest_slots
from .pack import Buffer
from .picture import data_uri, prepare

__all__ = ["MAX_PIXELS", "Labels", "gather", "shown_maps"]

Labels = Callable[[int], str]

MAX_PIXELS = 64 * 64  # maximum size of a map; finer maps are averaged, to limit the size of the page


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
    """Return the data of the page as a dictionary that can be written as JSON. See `explore` for the arguments."""
    if not 1 <= len(models) <= 2:
        raise InputError(f"The explorer shows one or two models, got {len(models)}.")
    if top < 1:
        raise InputError(f"top must be 1 or more, got {top}.")
    names = _names(label_names, len(models))
    results = [_run(image, model, blocks, size) for _, model in models]
    logits = [result.logits for result in results]
    probabilities = [None if one is None else one.sigmoid() if multi_label else one.softmax(0) for one in logits]
    buffer = Buffer()
    entries = []
    for (name, _), result, own, label in zip(models, results, probabilities, names, strict=True):
        classes = _classes(own, probabilities, top)
        activation = result.activation
        if activation is not None and not multi_label:
            # a softmax ignores constants added to all logits: evidence is relative to the mean of all classes
            activation = activation - activation.mean(1, keepdim=True)
        entries.append(
            {
                "name": name,
                "picture": data_uri(result.picture),
                "view": VIEW_NAMES["crop" if size is None else "whole"],
                "size": {"width": result.size[1], "height": result.size[0]},
                "classes": [{"label": label(c), "index": c, "probability": float(own[c])} for c in classes],  # type: ignore[index]
                "blocks": [_block(maps, activation, classes, buffer) for maps in result.maps],
            }
        )
    return {"models": entries, "multiLabel": multi_label, "buffer": buffer.text()}


def _names(label_names: Labels | Sequence[Labels] | None, count: int) -> list[Labels]:
    """Return one function from class index to class name per model."""
    if label_names is None:
        return [lambda index: f"class {index}"] * count
    if callable(label_names):
        return [label_names] * count
    if len(label_names) != count:
        raise InputError(f"label_names must be one function or one for each of {count} models, got {len(label_names)}.")
    return list(label_names)


@dataclass(frozen=True, eq=False)
class _ModelResult:
    """Outputs of one model. Without a classifier, logits (K,) and activation (1, K, h, w) are None."""

    picture: Image.Image
    size: tuple[int, int]
    maps: list[BlockMaps]
    logits: Tensor | None
    activation: Tensor | None


def _run(
    image: Image.Image, model: nn.Module, blocks: Sequence[int] | None, size: tuple[int, int] | None
) -> _ModelResult:
    """Run a model on an image, and record its slot maps, logits and class activation."""
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
        return _ModelResult(picture, size, maps, None, None)
    if not output.isfinite().all():
        raise InputError("The logits of the model are not finite.")
    try:
        activation = class_activation(model, images).float().cpu()
    except ValueError:  # not defined for this model, for example without average pooling: the page omits evidence
        activation = None
    return _ModelResult(picture, size, maps, output[0].float().cpu(), activation)


def _classes(own: Tensor | None, all_probabilities: Sequence[Tensor | None], top: int) -> list[int]:
    """Return the top classes of both models, sorted by this model's probabilities.

    The classes of the other model are added only if both models have the same number of classes.
    """
    if own is None:
        return []
    chosen: set[int] = set()
    for probabilities in all_probabilities:
        if probabilities is not None and len(probabilities) == len(own):
            chosen |= set(probabilities.topk(min(top, len(own))).indices.tolist())
    return sorted(chosen, key=lambda index: (-float(own[index]), index))


def shown_maps(maps: BlockMaps) -> tuple[tuple[int, int], Tensor, Tensor]:
    """Return the grid of the page, and clustering and assignment (S, N) on this grid.

    Grids of more than `MAX_PIXELS` are reduced by an integer factor: clustering weights are summed, assignments are
    averaged. Both still sum to one.

    Returns:
        Grid (height, width), clustering (S, N) and assignment (S, N).
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
    """Pad with zeros at the bottom and at the right until `factor` divides height and width."""
    return F.pad(x, (0, -x.shape[2] % factor, 0, -x.shape[1] % factor))


def _block(maps: BlockMaps, activation: Tensor | None, classes: list[int], buffer: Buffer) -> dict[str, Any]:
    """Return the data of one block; its maps are appended to the buffer."""
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
    """Convert indices to 16-bit little-endian bytes."""
    return np.ascontiguousarray(indices.numpy().astype("<u2")).view(np.uint8)


def _rounded(value: Any) -> Any:
    """Round numbers to five significant digits, to reduce the size of the page."""
    if isinstance(value, list):
        return [_rounded(item) for item in value]
    return None if value is None else float(f"{value:.5g}")
