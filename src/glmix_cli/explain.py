"""`glmix explain`: visualise the slots of a model for images, as figures and as interactive pages."""

import argparse
import json
import os
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from .images import add_input_limit, check_enlarged, exit_code, print_errors
from .inputs import add_model_arguments, add_view_argument
from .pipeline import add_reading_arguments, add_source_arguments
from .printing import printable
from .results import shortened
from .slot_models import load_models

if TYPE_CHECKING:
    from PIL.Image import Image

    from glmix import GLNet
    from glmix.data.classification.views import View
    from glmix.slots import ExplainedModel

HELP = "Visualise the slots of a model for images: as figures, and with --html as interactive pages for a browser."
IMAGES_PER_WORKER = 8  # fewer are decoded in the main process
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
    add_source_arguments(parser)
    limits = parser.add_argument_group("speed and memory")
    add_reading_arguments(limits)
    add_input_limit(limits, "larger inputs are an error")
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
    parser.add_argument(
        "--skip-existing",
        action="store_true",
        help="skip images whose files are in the output folder, to continue an interrupted run with the same options",
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
    from tqdm import tqdm

    from glmix.errors import InputError
    from glmix.inference import open_source
    from glmix.inference.loading import default_workers, load_batches
    from glmix.slots.explanation import check_crops
    from glmix.slots.figure import draw  # noqa: F401 - report a missing extra before the models are loaded

    if args.topk < 1:
        raise InputError(f"--topk must be 1 or more, got {args.topk}.")
    if args.html and len(args.compare) > 1:
        raise InputError(f"--html shows at most two models, got {1 + len(args.compare)}: give --compare one model.")
    if args.view == "crop" and args.size != 0:
        raise InputError("--size needs --view whole: --view crop always uses the input size of the model.")
    models = load_models(args)
    if args.view == "crop":
        check_crops(models)
    _make_writable(args.out)

    source = open_source(args.images, args.column)
    files = [Path(source.key(index)) for index in range(len(source))]
    names = _names(files, args.out)
    kinds = ["png", *(kind for kind in ("svg", "html") if getattr(args, kind))]
    done = [args.skip_existing and all((args.out / f"{name}.{kind}").exists() for kind in kinds) for name in names]
    to_do = [index for index, is_done in enumerate(done) if not is_done]
    skipped = [source.key(index) for index, is_done in enumerate(done) if is_done]
    results: list[dict[str, Any]] = []
    errors = list(source.problems)
    workers = default_workers(len(to_do), IMAGES_PER_WORKER) if args.workers is None else args.workers
    reader = _Reader(models[0].network, args.view, args.size, args.max_pixels, args.max_input_pixels)
    ranges = [range(index, index + 1) for index in to_do]
    batches = load_batches(source, ranges, reader, batch_size=1, num_workers=workers, any_size=True)
    try:
        for index, batch in zip(to_do, tqdm(batches, total=len(to_do), unit="image", disable=None), strict=True):
            error, output = batch.rows[0]["error"], args.out / names[index]
            if error is None:
                ((_, (image,)),) = batch.groups
                outcome = _attempt(partial(_explain, image, files[index], output, models, reader, args))
                if isinstance(outcome, dict):
                    results.append(outcome)
                else:
                    error = outcome
            if error is not None:
                errors.append({"file": source.key(index), "error": error})
    finally:  # print what is done even after a bug or an interruption
        if args.json:
            printed = {"results": results, "skipped": skipped, "errors": errors}
            print(json.dumps(printed, indent=2))
        else:
            for result in results:
                print(_text(result))
            if skipped:
                print(f"{len(skipped)} images skipped, because their files exist")
        print_errors("explain", errors)
    return exit_code(len(results) + len(skipped), errors)


class _Reader:
    """Reader of the images, in worker processes.

    Args:
        network: the first model.
        view: see `explain`.
        size: shorter side of the input; 0 for the input size of the model, None for the size of the image.
        max_pixels: maximum number of pixels of an image.
        max_input_pixels: maximum number of pixels of an input.
    """

    def __init__(
        self, network: "GLNet", view: "View", size: int | None, max_pixels: int, max_input_pixels: int
    ) -> None:
        from glmix.data.classification.views import shorter_side

        self.mode = "L" if network.in_chans == 1 else "RGB"
        self.shorter = None if size is None else size or shorter_side(network, view)
        self.max_pixels, self.max_input_pixels = max_pixels, max_input_pixels

    def __call__(self, source: "Path | BinaryIO") -> tuple["Image", tuple[int, int]]:
        from glmix.data.core.decoding import read_image
        from glmix.slots.explanation import check_aspect_ratio

        image = read_image(source, self.mode, max_pixels=self.max_pixels, at_least=self.shorter)
        check_aspect_ratio(image.size)
        check_enlarged(image.size, self.shorter or min(image.size), self.max_input_pixels, "--max-input-pixels")
        return image, image.size


def _attempt(explain: Callable[[], dict[str, Any]]) -> dict[str, Any] | str:
    """Return the result, or the reason of an InputError or an out-of-memory error."""
    from glmix.errors import InputError
    from glmix.inference.loading import out_of_memory_reason
    from glmix.memory import is_out_of_memory

    try:
        return explain()
    except InputError as error:
        return str(error)
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        return out_of_memory_reason(error)


def _explain(
    image: "Image",
    file: Path,
    output: Path,
    models: Sequence["ExplainedModel"],
    reader: _Reader,
    args: argparse.Namespace,
) -> dict[str, Any]:
    """Explain one image; `output` is the path of the files to write, without a suffix."""
    from glmix.slots.explanation import explain

    result = explain(
        image,
        models,
        output,
        title=printable(file.name),
        view=args.view,
        shorter_side=reader.shorter or min(image.size),
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


def _names(files: Sequence[Path], out: Path) -> list[str]:
    """Return a unique output name per image, without a suffix, with which no input image is overwritten."""
    taken = {str(file.resolve()).lower() for file in files}
    names: list[str] = []
    for file in files:
        for candidate in _candidates(file):
            name = shortened(candidate, len(".slots.html")) + ".slots"
            paths = {str((out / f"{name}.{kind}").resolve()).lower() for kind in ("png", "svg", "html")}
            if not taken & paths:
                break
        taken |= paths
        names.append(name)
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
