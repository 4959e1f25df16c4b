"""`glmix explain`: what the slots of a model show of images, as figures and as pages."""

import argparse
import json
import os
import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .images import ImageLoop, add_image_arguments, check_enlarged
from .inputs import add_model_arguments, add_view_argument, class_probabilities
from .printing import printable
from .results import shortened
from .slot_models import Model, load_models

if TYPE_CHECKING:
    from PIL.Image import Image

    from glmix import GLNet
    from glmix.slots.figure.draw import Column

HELP = "Show what the slots of a model hold of images: figures, and with --html pages to explore."
SMALLEST = 32  # pixels: the shorter side that a model takes at least
LONGEST = 32  # times the shorter side: panels of longer images are too narrow to show anything


def _size(text: str) -> int | None:
    """The shorter side in pixels, or None for the image's own."""
    if text == "native":
        return None
    if not text.isdecimal() or int(text) < SMALLEST:
        raise argparse.ArgumentTypeError(f"a number from {SMALLEST}, or 'native', got {text!r}")
    return int(text)


def _block(text: str) -> int | None:
    """A block's place in the order of execution, or None for all."""
    if text == "all":
        return None
    try:
        return int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"a number or 'all', got {text!r}") from None


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_image_arguments(parser, "images that would be larger are refused")
    add_model_arguments(parser, untrained="random weights, from --seed; the figure says so")
    parser.add_argument(
        "--compare",
        nargs="+",
        default=[],
        metavar="CHECKPOINT",
        help="show others beside it: checkpoints, local-dir:FOLDER, or 'untrained' for the same model with random "
        "weights",
    )
    parser.add_argument("-o", "--out", type=Path, required=True, metavar="OUT", help="the folder to write to")
    parser.add_argument(
        "--blocks",
        nargs="+",
        type=_block,
        metavar="N",
        help="which blocks with slots, counted in the order of execution from 0, or from the end where negative; "
        "'all' (default: the last of each stage in figures, all in pages)",
    )
    parser.add_argument("--svg", action="store_true", help="write figures as SVG, too")
    parser.add_argument("--html", action="store_true", help="write a page to explore each image with, too")
    parser.add_argument("--own-scale", action="store_true", help="give each map a colour scale of its own")
    parser.add_argument(
        "--size",
        type=_size,
        default=0,
        metavar="N|native",
        help="with --view whole: the image's shorter side in pixels, or 'native' (default: the model's)",
    )
    add_view_argument(parser, default="whole")
    parser.add_argument(
        "--multi-label", action="store_true", help="an image may have several classes (a .ckpt tells it)"
    )
    parser.add_argument("--topk", type=int, default=3, metavar="N", help="how many classes to tell (default: 3)")
    parser.add_argument("--seed", type=int, default=0, help="of random weights (default: 0)")
    parser.add_argument("--device", default="cpu", help="where to compute, such as cpu or cuda (default: cpu)")
    parser.add_argument("--json", action="store_true", help="print JSON for programs")


def run(args: argparse.Namespace) -> int:
    from glmix.errors import InputError
    from glmix.slots.figure import draw  # noqa: F401 - a missing extra is told before anything is computed

    if args.topk < 1:
        raise InputError(f"--topk must be 1 or more, got {args.topk}.")
    if args.html and len(args.compare) > 1:
        raise InputError(f"A page compares two models, and --compare names {len(args.compare)} beside the first.")
    if args.view == "crop" and args.size != 0:
        raise InputError("--size applies to --view whole only: with --view crop the model's own size is used.")
    models = load_models(args)
    _check_view(models, args.view)
    _make_writable(args.out)

    images = ImageLoop("explain", args.images, args.max_pixels)
    names = _names(list(images.found), args.out)
    results: list[dict[str, Any]] = []
    try:
        for file in images:
            with images.attempt(file):
                image, size = _open(images, file, models[0].network, args)
                results.append(_explain(file, image, size, args.out / names[file], models, args))
    finally:  # a bug or an interruption loses nothing of what was done
        if args.json:
            print(json.dumps({"results": results, "errors": images.errors}, indent=2))
        else:
            for result in results:
                print(_text(result))
        images.print_errors()
    return images.exit_code(len(results))


def _check_view(models: Sequence[Model], view: str) -> None:
    """Refuse models side by side that would see different crops of one image."""
    from glmix.data.classification.views import input_config
    from glmix.errors import InputError

    if view == "whole":
        return
    configs = [input_config(model.network) for model in models]
    crops = {(config["input_size"][1:], config["crop_pct"], config["crop_mode"]) for config in configs}
    if len(crops) > 1:
        raise InputError(
            "With --view crop, models side by side must have one input size and one crop_pct, and these have "
            + " and ".join(f"{width} x {height} with {pct:g}" for (height, width), pct, _ in sorted(crops))
            + ": use --view whole."
        )


def _text(result: dict[str, Any]) -> str:
    """The image, what the models saw of it, and the files that were written."""
    from glmix.data.classification.views import describe_view

    view = describe_view(result["view"], (result["size"]["height"], result["size"]["width"]))
    return "\n  ".join([f"{printable(result['file'])}  ({view})", *map(printable, result["written"])])


def _make_writable(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    if not os.access(folder, os.W_OK | os.X_OK):
        raise PermissionError(f"{folder} cannot be written to.")


def _names(files: Sequence[Path], out: Path) -> dict[Path, str]:
    """What each image's results are called, without a suffix: different for different files, and no image itself."""
    taken = {str(file.resolve()).lower() for file in files}
    names: dict[Path, str] = {}
    for file in files:
        for candidate in _candidates(file):
            name = shortened(candidate, len(".slots.html")) + ".slots"
            paths = {str((out / f"{name}.{kind}").resolve()).lower() for kind in ("png", "svg", "html")}
            if not taken & paths:
                break
        taken |= paths
        names[file] = name
    return names


def _candidates(file: Path) -> Iterable[str]:
    yield file.stem
    yield file.name
    yield f"{file.resolve().parent.name}-{file.name}"
    number = 2
    while True:
        yield f"{file.stem}-{number}"
        number += 1


def _open(
    images: ImageLoop, file: Path, network: "GLNet", args: argparse.Namespace
) -> tuple["Image", tuple[int, int] | None]:
    """Read an image within the bounds.

    Returns:
        The upright image, and the height and width at which the models see all of it; None for their centre crop.
    """
    from glmix.data.classification.views import shorter_side, whole_size
    from glmix.errors import InputError

    shorter = None if args.size is None else args.size or shorter_side(network, args.view)
    image = images.open(file, "L" if network.in_chans == 1 else "RGB", at_least=shorter)
    if max(image.size) > LONGEST * min(image.size):
        raise InputError(
            f"The image is {image.width} x {image.height} pixels, and a figure shows images of which one side is at "
            f"most {LONGEST} times as long as the other."
        )
    check_enlarged(image.size, shorter or min(image.size), args.max_input_pixels, "--max-input-pixels")
    if args.view == "crop":
        return image, None
    return image, (image.height, image.width) if shorter is None else whole_size(image, network, shorter)


def _explain(
    file: Path,
    image: "Image",
    size: tuple[int, int] | None,
    target: Path,
    models: Sequence[Model],
    args: argparse.Namespace,
) -> dict[str, Any]:
    """All that is asked for about one image; `target` is what is written, without a suffix."""
    from glmix.slots.figure.draw import save_figure, slot_figure

    columns, picture, seen = _columns(image, size, models, args)
    title = printable(file.name)
    figure = slot_figure(picture, columns, size=seen, view=args.view, title=title, own_scale=args.own_scale)
    written = [target.with_name(f"{target.name}.{kind}") for kind in ("png", *(["svg"] if args.svg else []))]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from")  # a name in a script that the font lacks
        for path in written:
            save_figure(figure, path)
    if args.html:
        from glmix.slots.explorer import write_page

        written.append(target.with_name(f"{target.name}.html"))
        write_page(
            written[-1],
            image,
            [(model.title + (" (untrained)" if model.warning else ""), model.network) for model in models],
            title=title,
            label_names=[model.labels for model in models],
            blocks=None if args.blocks is None or None in args.blocks else args.blocks,
            size=size,
            multi_label=args.multi_label or models[0].multi_label,
        )
    return {
        "file": str(file),
        "view": args.view,
        "size": _size_fields(seen),
        "written": [str(path) for path in written],
        "models": [_told(column) for column in columns],
    }


def _size_fields(size: tuple[int, int]) -> dict[str, int]:
    """Return a size (height, width) with named fields."""
    return {"width": size[1], "height": size[0]}


def _columns(
    image: "Image", size: tuple[int, int] | None, models: Sequence[Model], args: argparse.Namespace
) -> tuple[list["Column"], "Image", tuple[int, int]]:
    """Run one forward pass of each model.

    Args:
        size: height and width of the whole image as the models see it; None for their centre crop.

    Returns:
        The columns of the figure, a picture of what the models saw, and its size (height, width) as they saw it.
    """
    import torch

    from glmix.slots import recording
    from glmix.slots.explorer.picture import prepare
    from glmix.slots.figure.draw import Column

    columns, pictures, sizes = [], [], []
    for model in models:
        images, picture = prepare(image, model.network, size)
        with torch.no_grad(), recording(model.network, model.blocks) as maps:
            logits = model.network(images.to(args.device))
        predictions: list[tuple[str, float]] = []
        if logits.ndim == 2 and model.network.num_classes > 0 and model.warning is None:
            told = class_probabilities(model.network, logits[0], args.multi_label)
            best = told.topk(min(args.topk, len(told)))
            predictions = [
                (model.labels(c), p) for c, p in zip(best.indices.tolist(), best.values.tolist(), strict=True)
            ]
        columns.append(Column(model.title, maps, predictions, model.warning))
        pictures.append(picture)
        sizes.append((images.shape[2], images.shape[3]))
    return columns, pictures[0], sizes[0]


def _told(column: "Column") -> dict[str, Any]:
    """A column in numbers."""
    from glmix.slots.measures import effective_slots_per_image, effective_slots_per_pixel

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
