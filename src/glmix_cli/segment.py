"""`glmix segment`: the class of each pixel of images, as masks, as pictures and as JSON."""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .images import ImageLoop, add_image_arguments
from .inputs import check_device
from .printing import printable
from .results import result_names

if TYPE_CHECKING:
    from PIL.Image import Image

HELP = "Give each pixel of images its class: masks, overlays and JSON, by a network that `glmix fit` trained."
SUFFIXES = ("_mask.png", "_overlay.png")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_image_arguments(parser, "larger images are segmented in sliding windows")
    parser.add_argument("--checkpoint", type=Path, required=True, metavar="FILE", help="a .ckpt of a segmentation")
    parser.add_argument("-o", "--out", type=Path, required=True, metavar="OUT", help="folder for the results")
    parser.add_argument("--overwrite", action="store_true", help="replace results that are there already")
    parser.add_argument("--json", action="store_true", help="print OUT/segments.json too, for programs")
    parser.add_argument("--device", default="cpu", help="where to compute, such as cpu or cuda (default: cpu)")
    look = parser.add_argument_group("how an image is looked at")
    look.add_argument(
        "--resize",
        nargs=2,
        type=int,
        metavar=("LONGER", "SHORTER"),
        help="scale images to fit this box first; 0 0 leaves them as they are (default: as in training)",
    )
    look.add_argument("--slide", action="store_true", help="in windows that overlap, not as a whole")
    look.add_argument("--window", type=int, default=512, metavar="N", help="pixels a side of a window (%(default)s)")
    look.add_argument("--stride", type=int, metavar="N", help="from window to window (two thirds of a window)")
    look.add_argument(
        "--scales", nargs="+", type=float, default=[1.0], metavar="X", help="sizes to see it at, such as 0.75 1 1.25"
    )
    look.add_argument("--flip", action="store_true", help="see it mirrored too")


def run(args: argparse.Namespace) -> int:
    from glmix.errors import InputError
    from glmix.files import write_atomically
    from glmix.tasks.segmentation.inference import Inference
    from glmix.tasks.segmentation.predictor import SegmentationPredictor, overlay, palette_image

    options: dict[str, Any] = {
        "device": args.device,
        "max_input_pixels": args.max_input_pixels,
        "how": Inference(
            "slide" if args.slide else "whole", args.window, args.stride, tuple(args.scales), flip=args.flip
        ),
    }
    if args.resize is not None:
        if args.resize != [0, 0] and not 1 <= args.resize[1] <= args.resize[0]:
            raise InputError(f"--resize takes the longer side and the shorter one, or 0 0, got {args.resize}.")
        options["resize"] = None if args.resize == [0, 0] else tuple(args.resize)
    check_device(args.device)
    images = ImageLoop("segment", args.images, args.max_pixels)
    names = result_names(images.found, max(map(len, SUFFIXES)))
    report = args.out / "segments.json"
    if not args.overwrite:
        wanted = [report, *(file for name in names.values() for file in _targets(args.out, name))]
        there = next((file for file in wanted if file.exists()), None)
        if there is not None:
            raise InputError(f"{there} is there already: choose another folder, or replace it with --overwrite.")
    predict = SegmentationPredictor.from_checkpoint(args.checkpoint, **options)

    results: list[dict[str, Any]] = []
    try:
        for file in images:
            with images.attempt(file):
                image = images.open(file)
                in_windows = predict.is_too_large(image)
                if in_windows and not args.slide:
                    images.say(file, f"too large to segment at once, done in windows of {args.window} pixels")
                labels = predict(image)
                mask, picture = _targets(args.out, names[file])
                _save(palette_image(labels, predict.class_names), mask)
                _save(overlay(image, labels, predict.class_names), picture)
                results.append(
                    {
                        "file": str(file),
                        "width": image.width,
                        "height": image.height,
                        "mode": "slide" if args.slide or in_windows else "whole",
                        "mask": str(mask.relative_to(args.out)),
                        "overlay": str(picture.relative_to(args.out)),
                        "classes": _shares(labels, predict.class_names),
                    }
                )
    finally:  # a bug or an interruption loses nothing of what was done
        contents = {"classes": list(predict.class_names), "results": results, "errors": images.errors}
        if results:
            write_atomically(report, json.dumps(contents, indent=2) + "\n")
        if args.json:
            print(json.dumps(contents, indent=2))
        elif results:
            plural = "s" * (len(results) > 1)
            print(printable(f"{args.out}: masks and overlays of {len(results)} image{plural}, and segments.json"))
        images.print_errors()
    return images.exit_code(len(results))


def _targets(out: Path, name: Path) -> tuple[Path, Path]:
    """Where the mask and the overlay are written."""
    mask, picture = (out / f"{name}{suffix}" for suffix in SUFFIXES)
    return mask, picture


def _shares(labels: Any, names: Sequence[str]) -> list[dict[str, Any]]:
    """The classes that an image shows, the largest first."""
    from PIL import Image

    counts = Image.fromarray(labels).histogram()
    order = sorted((k for k, count in enumerate(counts) if count), key=lambda k: -counts[k])
    return [{"id": k, "name": names[k], "pixels": counts[k], "share": round(counts[k] / labels.size, 6)} for k in order]


def _save(image: "Image", path: Path) -> None:
    from glmix.files import atomic_write

    with atomic_write(path) as part:
        image.save(part, format="PNG")
