"""`glmix explain`: visualise the slots of a model for images, as figures and as interactive pages."""

import argparse
import json
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .images import ImageLoop, add_image_arguments, check_enlarged
from .inputs import add_model_arguments, add_view_argument
from .printing import printable
from .results import shortened
from .slot_models import load_models

if TYPE_CHECKING:
    from glmix.slots import ExplainedModel

HELP = "Visualise the slots of a model for images: as figures, and with --html as interactive pages for a browser."
SMALLEST = 32  # pixels: the smallest shorter side that a model accepts


def _size(text: str) -> int | None:
    """Return the shorter side in pixels, or None for the size of the image file."""
    if text == "native":
        return None
    if not text.isdecimal() or int(text) < SMALLEST:
        raise argparse.ArgumentTypeError(f"must be an integer of at least {SMALLEST}, or 'native', got {text!r}")
    return int(text)


def _block(text: str) -> int | None:
    """Return the index of a block in the order of execution, or None for all blocks."""
    if text == "all":
        return None
    try:
        return int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"must be an integer or 'all', got {text!r}") from None


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_image_arguments(parser, "larger inputs are an error")
    add_model_arguments(parser, untrained="use random weights from --seed; the figure says so")
    parser.add_argument(
        "--compare",
        nargs="+",
        default=[],
        metavar="CHECKPOINT",
        help="show other models next to the first one: checkpoints, local-dir:FOLDER, or 'untrained' for the same "
        "model with random weights",
    )
    parser.add_argument("-o", "--out", type=Path, required=True, metavar="OUT", help="output folder")
    parser.add_argument(
        "--blocks",
        nargs="+",
        type=_block,
        metavar="N",
        help="indices of blocks with slots, from 0 in the order of execution; negative indices count from the end; "
        "'all' for all (default: the last block of each stage in figures, all in pages)",
    )
    parser.add_argument("--svg", action="store_true", help="also write each figure as SVG")
    parser.add_argument("--html", action="store_true", help="also write an interactive page for each image")
    parser.add_argument("--own-scale", action="store_true", help="give each map its own colour scale")
    parser.add_argument(
        "--size",
        type=_size,
        default=0,
        metavar="N|native",
        help="with --view whole: shorter side of the model input in pixels, or 'native' for the size of the image file "
        "(default: the model's input size)",
    )
    add_view_argument(parser, default="whole")
    parser.add_argument(
        "--multi-label",
        action="store_true",
        help="the model predicts several classes per image (not needed for a .ckpt of `glmix fit`)",
    )
    parser.add_argument("--topk", type=int, default=3, metavar="N", help="number of classes to print (default: 3)")
    parser.add_argument("--seed", type=int, default=0, help="seed of random weights (default: 0)")
    parser.add_argument("--device", default="cpu", help="torch device, such as cpu or cuda (default: cpu)")
    parser.add_argument("--json", action="store_true", help="print the results as JSON")


def run(args: argparse.Namespace) -> int:
    from glmix.errors import InputError
    from glmix.slots.explanation import check_crops
    from glmix.slots.figure import draw  # noqa: F401 - report a missing extra before the models are loaded

    if args.topk < 1:
        raise InputError(f"--topk must be 1 or more, got {args.topk}.")
    if args.html and len(args.compare) > 1:
        raise InputError(f"A page compares two models, and --compare names {len(args.compare)} beside the first.")
    if args.view == "crop" and args.size != 0:
        raise InputError("--size applies to --view whole only: with --view crop the model's own size is used.")
    models = load_models(args)
    if args.view == "crop":
        check_crops(models)
    _make_writable(args.out)

    images = ImageLoop("explain", args.images, args.max_pixels)
    names = _names(list(images.found), args.out)
    results: list[dict[str, Any]] = []
    try:
        for file in images:
            with images.attempt(file):
                results.append(_explain(images, file, args.out / names[file], models, args))
    finally:  # print what is done even after a bug or an interruption
        if args.json:
            print(json.dumps({"results": results, "errors": images.errors}, indent=2))
        else:
            for result in results:
                print(_text(result))
        images.print_errors()
    return images.exit_code(len(results))


def _explain(
    images: ImageLoop, file: Path, output: Path, models: Sequence["ExplainedModel"], args: argparse.Namespace
) -> dict[str, Any]:
    """Explain one image; `output` is the path of the files to write, without a suffix."""
    from glmix.data.classification.views import shorter_side
    from glmix.slots.explanation import check_aspect_ratio, explain

    network = models[0].network
    shorter = None if args.size is None else args.size or shorter_side(network, args.view)
    image = images.open(file, "L" if network.in_chans == 1 else "RGB", at_least=shorter)
    check_aspect_ratio(image.size)
    shorter = shorter or min(image.size)
    check_enlarged(image.size, shorter, args.max_input_pixels, "--max-input-pixels")
    result = explain(
        image,
        models,
        output,
        title=printable(file.name),
        view=args.view,
        shorter_side=shorter,
        top_k=args.topk,
        multi_label=args.multi_label,
        own_scale=args.own_scale,
        svg=args.svg,
        html=args.html,
        page_blocks=None if args.blocks is None or None in args.blocks else args.blocks,
    )
    return {"file": str(file), **result}


def _text(result: dict[str, Any]) -> str:
    """Return the lines to print about one image: its name, the view, and the files that were written."""
    from glmix.data.classification.views import describe_view

    view = describe_view(result["view"], (result["size"]["height"], result["size"]["width"]))
    return "\n  ".join([f"{printable(result['file'])}  ({view})", *map(printable, result["written"])])


def _make_writable(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    if not os.access(folder, os.W_OK | os.X_OK):
        raise PermissionError(f"{folder} cannot be written to.")


def _names(files: Sequence[Path], out: Path) -> dict[Path, str]:
    """Return a unique output name per image, without a suffix, with which no input image is overwritten."""
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
    """Yield possible names for the outputs of an image, the shortest first."""
    yield file.stem
    yield file.name
    yield f"{file.resolve().parent.name}-{file.name}"
    number = 2
    while True:
        yield f"{file.stem}-{number}"
        number += 1
