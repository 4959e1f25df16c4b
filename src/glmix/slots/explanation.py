"""Explanation of one image: a figure of slot maps and a page to explore them, for one model or several."""

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from PIL import Image

from ..data.classification.views import View, class_probabilities, input_config, whole_size
from ..errors import InputError
from ..models import GLNet
from .maps import last_blocks, recording
from .measures import effective_slots_per_image, effective_slots_per_pixel

if TYPE_CHECKING:
    from .figure.draw import Column

__all__ = ["MAX_ASPECT_RATIO", "ExplainedModel", "check_aspect_ratio", "check_crops", "explain"]

MAX_ASPECT_RATIO = 32  # panels of longer images are too narrow to show anything


def _class_number(index: int) -> str:
    return f"class {index}"


@dataclass(frozen=True, eq=False)
class ExplainedModel:
    """A model whose slots `explain` shows.

    Args:
        title: name of the model in the figure and on the page.
        network: the model, in evaluation mode. It stays on its device.
        blocks: indices of the blocks in the figure, in the order of execution. None: the last block with slots of each
            stage.
        labels: function from class index to class name.
        warning: sentence to print in red instead of predictions, for a model with random weights. None for a trained
            model.
    """

    title: str
    network: GLNet
    blocks: Sequence[int] | None = None
    labels: Callable[[int], str] = _class_number
    warning: str | None = None


def check_aspect_ratio(size: tuple[int, int]) -> None:
    """Raise InputError if one side of an image (width, height) is too long for a figure."""
    width, height = size
    if max(size) > MAX_ASPECT_RATIO * min(size):
        raise InputError(
            f"The image is {width} x {height} pixels, and a figure shows images of which one side is at most "
            f"{MAX_ASPECT_RATIO} times as long as the other."
        )


def check_crops(models: Sequence[ExplainedModel]) -> None:
    """Raise InputError if the evaluation transforms of the models crop an image differently."""
    configs = [input_config(model.network) for model in models]
    crops = {(config["input_size"][1:], config["crop_pct"], config["crop_mode"]) for config in configs}
    if len(crops) > 1:
        raise InputError(
            "With --view crop, models side by side must have one input size and one crop_pct, and these have "
            + " and ".join(f"{width} x {height} with {pct:g}" for (height, width), pct, _ in sorted(crops))
            + ": use --view whole."
        )


def explain(
    image: Image.Image,
    models: Sequence[ExplainedModel],
    output: Path,
    *,
    title: str = "",
    view: View = "whole",
    shorter_side: int | None = None,
    top_k: int = 3,
    multi_label: bool = False,
    own_scale: bool = False,
    svg: bool = False,
    html: bool = False,
    page_blocks: Sequence[int] | None = None,
) -> dict[str, Any]:
    """Write the slot figure of an image, and optionally the explorer page, and return the numbers in them.

    The figure needs the extra `slots`. The models run once per image for the figure and once for the page.

    Args:
        image: an upright image.
        models: one model, or several to compare side by side; a page takes at most two. Each must show the same number
            of blocks.
        output: path of the files to write, without a suffix: `out/photo.slots` gives `out/photo.slots.png`. The folder
            must exist.
        title: title of the figure and of the page.
        view: `whole` shows the whole image to the models, `crop` the centre crop of their evaluation transform.
        shorter_side: with the view `whole`, pixels of the shorter side of the model input. None: the shorter
            side of the first model's input size.
        top_k: number of predicted classes per model in the figure and in the result.
        multi_label: an image may have several classes: probabilities are sigmoids instead of a softmax.
        own_scale: give each map of the figure its own colour scale.
        svg: write the figure as SVG, too.
        html: write a page to explore the slots with (`glmix.slots.explorer`).
        page_blocks: indices of the blocks on the page; negative indices count from the end. None: all.

    Returns:
        The view, the size of the model input, the written files and, per model, its predictions and the numbers of
        each block in the figure: `{"view", "size", "written", "models"}`. All values can be written as JSON.

    Raises:
        InputError: one side of the image is too long, the models crop it differently or show different numbers of
            blocks, or a block does not exist.
        MissingExtraError: the extra `slots` is not installed.
    """
    from .figure.draw import save_figure, slot_figure

    check_aspect_ratio(image.size)
    if view == "crop":
        check_crops(models)
    size = whole_size(image, models[0].network, shorter_side) if view == "whole" else None
    columns, picture, input_size = _columns(image, size, models, top_k, multi_label)
    figure = slot_figure(picture, columns, size=input_size, view=view, title=title, own_scale=own_scale)
    written = [output.with_name(f"{output.name}.{kind}") for kind in ("png", *(["svg"] if svg else []))]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from")  # the font lacks a script used in the title
        for path in written:
            save_figure(figure, path)
    if html:
        from .explorer import write_page

        written.append(output.with_name(f"{output.name}.html"))
        write_page(
            written[-1],
            image,
            [(model.title + (" (untrained)" if model.warning else ""), model.network) for model in models],
            title=title,
            label_names=[model.labels for model in models],
            blocks=page_blocks,
            size=size,
            multi_label=multi_label or models[0].network.multi_label,
        )
    return {
        "view": view,
        "size": _size_fields(input_size),
        "written": [str(path) for path in written],
        "models": [_model_fields(column) for column in columns],
    }


def _columns(
    image: Image.Image, size: tuple[int, int] | None, models: Sequence[ExplainedModel], top_k: int, multi_label: bool
) -> tuple[list["Column"], Image.Image, tuple[int, int]]:
    """Run one forward pass per model.

    Args:
        size: height and width of the model input for the whole image. None: the centre crop of the models.

    Returns:
        The columns of the figure, a picture of the model input, and the size (height, width) of the model input.
    """
    from .explorer.picture import prepare
    from .figure.draw import Column

    columns, pictures, sizes = [], [], []
    for model in models:
        images, picture = prepare(image, model.network, size)
        blocks = last_blocks(model.network) if model.blocks is None else model.blocks
        with torch.no_grad(), recording(model.network, blocks) as maps:
            logits = model.network(images.to(next(model.network.parameters()).device))
        predictions: list[tuple[str, float]] = []
        if logits.ndim == 2 and model.network.num_classes > 0 and model.warning is None:
            probabilities = class_probabilities(model.network, logits[0], multi_label)
            best = probabilities.topk(min(top_k, len(probabilities)))
            predictions = [
                (model.labels(c), p) for c, p in zip(best.indices.tolist(), best.values.tolist(), strict=True)
            ]
        columns.append(Column(model.title, maps, predictions, model.warning))
        pictures.append(picture)
        sizes.append((images.shape[2], images.shape[3]))
    return columns, pictures[0], sizes[0]


def _size_fields(size: tuple[int, int]) -> dict[str, int]:
    """Return a size (height, width) with named fields."""
    return {"width": size[1], "height": size[0]}


def _model_fields(column: "Column") -> dict[str, Any]:
    """Return the predictions and the numbers of each block of one column of the figure."""
    return {
        "title": column.title,
        "untrained": column.warning is not None,
        "predictions": [{"label": name, "probability": probability} for name, probability in column.predictions],
        "blocks": [
            {
                "index": maps.index,
                "name": maps.name,
                "grid": _size_fields(maps.grid),
                "slot_grid": _size_fields(maps.slot_grid),
                "scale": maps.scale,
                "effective_slots_per_pixel": float(effective_slots_per_pixel(maps.assignment).mean()),
                "effective_slots_per_image": float(effective_slots_per_image(maps.assignment)),
            }
            for maps in column.maps
        ],
    }
