"""`glmix segment`: semantic segmentation of images, written as masks, overlays and JSON."""

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .images import ImageLoop, add_image_arguments
from .inputs import check_device
from .printing import printable
from .results import result_names

if TYPE_CHECKING:
    from PIL.Image import Image

HELP = "Segment images with a model trained by `glmix fit`; write masks, overlays and JSON."
SUFFIXES = ("_mask.png", "_overlay.png")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_image_arguments(parser, "larger images are segmented with a sliding window")
    parser.add_argument(
        "--checkpoint",
        type=Path,
        required=True,
        metavar="FILE",
        help=".ckpt of a segmentation model from `glmix fit`, or a folder of `glmix convert`",
    )
    parser.add_argument("-o", "--out", type=Path, required=True, metavar="OUT", help="folder for the results")
    parser.add_argument("--overwrite", action="store_true", help="replace existing results")
    parser.add_argument("--json", action="store_true", help="also print OUT/segments.json")
    parser.add_argument("--device", default="cpu", help="torch device, such as cpu or cuda (default: cpu)")
    inference = parser.add_argument_group("inference")
    inference.add_argument(
        "--resize",
        nargs=2,
        type=int,
        metavar=("LONGER", "SHORTER"),
        help="resize each image to fit into this size, aspect ratio kept; 0 0 disables resizing (default: as in "
        "training)",
    )
    inference.add_argument(
        "--slide", action="store_true", help="use overlapping sliding windows instead of the whole image"
    )
    inference.add_argument(
        "--window",
        type=int,
        default=512,
        metavar="N",
        help="side length of a sliding window in pixels (default: %(default)s)",
    )
    inference.add_argument(
        "--stride",
        type=int,
        metavar="N",
        help="distance between sliding windows in pixels (default: two thirds of --window)",
    )
    inference.add_argument(
        "--scales",
        nargs="+",
        type=float,
        default=[1.0],
        metavar="X",
        help="scale factors for multi-scale test-time augmentation, such as 0.75 1 1.25 (default: 1)",
    )
    inference.add_argument("--flip", action="store_true", help="average with the prediction for the mirrored image")


def run(args: argparse.Namespace) -> int:
    from glmix.errors import InputError
    from glmix.files import write_atomically
    from glmix.tasks.segmentation.inference import Inference
    from glmix.tasks.segmentation.predictor import SegmentationPredictor

    options: dict[str, Any] = {
        "device": args.device,
        "max_input_pixels": args.max_input_pixels,
        "how": Inference(
            "slide" if args.slide else "whole", args.window, args.stride, tuple(args.scales), flip=args.flip
        ),
    }
    if args.resize is not None:
        if args.resize != [0, 0] and not 1 <= args.resize[1] <= args.resize[0]:
            raise InputError(f"--resize takes LONGER SHORTER with 1 <= SHORTER <= LONGER, or 0 0; got {args.resize}.")
        options["resize"] = None if args.resize == [0, 0] else tuple(args.resize)
    check_device(args.device)
    images = ImageLoop("segment", args.images, args.max_pixels)
    names = result_names(images.found, max(map(len, SUFFIXES)))
    report = args.out / "segments.json"
    if not args.overwrite:
        targets = [report, *(file for name in names.values() for file in _targets(args.out, name))]
        existing = next((file for file in targets if file.exists()), None)
        if existing is not None:
            raise InputError(f"{existing} already exists: choose another folder, or replace it with --overwrite.")
    predict = SegmentationPredictor.from_checkpoint(args.checkpoint, **options)

    results: list[dict[str, Any]] = []
    try:
        for file in images:
            with images.attempt(file):
                image = images.open(file)
                if predict.is_too_large(image) and not args.slide:
                    images.notify(file, f"too large for one pass, segmented in windows of {args.window} pixels")
                found = predict(image)
                mask, picture = _targets(args.out, names[file])
                _save(found.mask(), mask)
                _save(found.overlay(image), picture)
                results.append(
                    {
                        "file": str(file),
                        "width": image.width,
                        "height": image.height,
                        "mode": "slide" if found.in_windows else "whole",
                        "mask": str(mask.relative_to(args.out)),
                        "overlay": str(picture.relative_to(args.out)),
                        "classes": found.classes(),
                    }
                )
    finally:  # write the finished results even after a bug or an interruption
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
    """Return the paths of the mask and the overlay."""
    mask, picture = (out / f"{name}{suffix}" for suffix in SUFFIXES)
    return mask, picture


def _save(image: "Image", path: Path) -> None:
    from glmix.files import atomic_write

    with atomic_write(path) as part:
        image.save(part, format="PNG")
