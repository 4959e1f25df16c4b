"""`glmix segment`: the class of each pixel of images, as masks, as pictures and as JSON."""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .inputs import check_device
from .results import result_names

if TYPE_CHECKING:
    from PIL.Image import Image

HELP = "Give each pixel of images its class: masks, overlays and JSON, by a network that `glmix fit` trained."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "images", nargs="+", type=Path, metavar="IMAGE", help="an image, or a folder searched for images"
    )
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
    from tqdm import tqdm

    from glmix.data.masks.pixels import read_upright
    from glmix.errors import InputError
    from glmix.files import write_whole
    from glmix.tasks.segmentation.inference import Inference
    from glmix.tasks.segmentation.predictor import SegmentationPredictor, overlay, palette_image

    options: dict[str, Any] = {
        "device": args.device,
        "how": Inference(
            "slide" if args.slide else "whole", args.window, args.stride, tuple(args.scales), flip=args.flip
        ),
    }
    if args.resize is not None:
        if args.resize != [0, 0] and not 1 <= args.resize[1] <= args.resize[0]:
            raise InputError(f"--resize takes the longer side and the shorter one, or 0 0, got {args.resize}.")
        options["resize"] = None if args.resize == [0, 0] else tuple(args.resize)
    check_device(args.device)
    errors: list[dict[str, str]] = []
    names = result_names(args.images, errors)
    report = args.out / "segments.json"
    if not args.overwrite:
        wanted = [report, *(file for name in names.values() for file in _targets(args.out, name))]
        there = next((file for file in wanted if file.exists()), None)
        if there is not None:
            raise InputError(f"{there} is there already: choose another folder, or replace it with --overwrite.")
    predict = SegmentationPredictor.from_checkpoint(args.checkpoint, **options)

    results: list[dict[str, Any]] = []
    for file, name in tqdm(names.items(), unit="image", disable=None):
        try:
            image = read_upright(file)
            labels = predict(image)
        except (OSError, ValueError, RuntimeError) as error:  # RuntimeError: no memory for so large an image
            errors.append({"file": str(file), "error": str(error)})
            continue
        mask, picture = _targets(args.out, name)
        _save(palette_image(labels, predict.class_names), mask)
        _save(overlay(image, labels, predict.class_names), picture)
        results.append(
            {
                "file": str(file),
                "width": image.width,
                "height": image.height,
                "mask": str(mask.relative_to(args.out)),
                "overlay": str(picture.relative_to(args.out)),
                "classes": _shares(labels, predict.class_names),
            }
        )
    contents = {"classes": list(predict.class_names), "results": results, "errors": errors}
    if results:
        write_whole(report, json.dumps(contents, indent=2) + "\n")
    if args.json:
        print(json.dumps(contents, indent=2))
    elif results:
        print(f"{args.out}: masks and overlays of {len(results)} image{'s' * (len(results) > 1)}, and segments.json")
    for failure in errors:
        print(f"glmix segment: {failure['file']}: {failure['error']}", file=sys.stderr)
    if not results:
        return 2
    return 1 if errors else 0


def _targets(out: Path, name: Path) -> tuple[Path, Path]:
    """Where the mask and the overlay are written."""
    return out / f"{name}_mask.png", out / f"{name}_overlay.png"


def _shares(labels: Any, names: Sequence[str]) -> list[dict[str, Any]]:
    """The classes that an image shows, the largest first."""
    import numpy as np

    counts = np.bincount(labels.ravel(), minlength=len(names))
    order = [int(k) for k in np.argsort(-counts, kind="stable") if counts[k]]
    return [
        {"id": k, "name": names[k], "pixels": int(counts[k]), "share": round(float(counts[k] / labels.size), 6)}
        for k in order
    ]


def _save(image: "Image", path: Path) -> None:
    from glmix.files import whole_file

    with whole_file(path) as part:
        image.save(part, format="PNG", optimize=True)
