"""`glmix segment`: semantic segmentation of images, written as masks, overlays and JSON."""

import argparse
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .images import add_input_limit, print_errors
from .inputs import check_device
from .pipeline import add_pipeline_arguments, compute, finish
from .results import result_names, rows_with_names, write_report

if TYPE_CHECKING:
    from PIL.Image import Image

HELP = "Segment images with a model trained by `glmix fit`; write masks, overlays, rows and JSON."
REPORT, MASKS, OVERLAYS = "segments.json", "masks", "overlays"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_pipeline_arguments(parser, True, batch_size=8, shard_size=64, formats=("parquet", "jsonl"))
    add_input_limit(parser, "larger images are segmented with a sliding window")
    parser.add_argument(
        "--checkpoint",
        type=Path,
        required=True,
        metavar="FILE",
        help=".ckpt of a segmentation model from `glmix fit`, or a folder of `glmix convert`",
    )
    parser.add_argument("--no-overlays", action="store_true", help="write no overlays")
    parser.add_argument("--json", action="store_true", help=f"also print OUTPUT/{REPORT}")
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
        "--blend",
        choices=("mean", "centre"),
        default="mean",
        help="where windows overlap: the mean of their scores, or the scores of the window whose centre is nearest, "
        "which takes less memory with many classes (default: %(default)s)",
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
    from torchvision.transforms.v2.functional import to_pil_image

    from glmix.errors import InputError
    from glmix.inference import open_source
    from glmix.tasks.segmentation.inference import Inference
    from glmix.tasks.segmentation.predictor import SegmentationPredictor

    options: dict[str, Any] = {
        "device": args.device,
        "max_input_pixels": args.max_input_pixels,
        "max_pixels": args.max_pixels,
        "scratch": args.output / MASKS,
        "inference": Inference(
            "slide" if args.slide else "whole",
            args.window,
            args.stride,
            tuple(args.scales),
            flip=args.flip,
            blend=args.blend,
        ),
    }
    if args.resize is not None:
        if args.resize != [0, 0] and not 1 <= args.resize[1] <= args.resize[0]:
            raise InputError(f"--resize takes LONGER SHORTER with 1 <= SHORTER <= LONGER, or 0 0; got {args.resize}.")
        options["resize"] = None if args.resize == [0, 0] else tuple(args.resize)
    check_device(args.device)
    predict = SegmentationPredictor.from_checkpoint(args.checkpoint, **options)
    source = open_source(args.images, args.column)
    names = result_names(source, args.images, len(".png"))

    def save(position: int, row: dict[str, Any]) -> None:
        if "mask_file" in row:  # the mask of an image that was read in windows
            row["mask"] = f"{MASKS}/{names[position]}.tif"
            (args.output / row["mask"]).parent.mkdir(parents=True, exist_ok=True)
            os.replace(row["mask_file"], args.output / row["mask"])
            return
        row["mask"] = f"{MASKS}/{names[position]}.png"
        _save(row["found"].mask(), args.output / row["mask"])
        if not args.no_overlays:
            row["overlay"] = f"{OVERLAYS}/{names[position]}.png"
            _save(row["found"].overlay(to_pil_image(row["image"])), args.output / row["overlay"])

    summary, folder, errors = compute(
        args,
        predict,
        source,
        columns={"mask": "string", "overlay": "string"},
        save=save,
        others=(MASKS, OVERLAYS, REPORT),
        options={"overlays": not args.no_overlays},
    )

    def results() -> Iterator[dict[str, Any]]:
        for position, name, row in rows_with_names(folder, source):
            classes = zip(row["classes"], row["labels"], row["pixels"], row["shares"], strict=True)
            yield {
                "file": name,
                "width": row["width"],
                "height": row["height"],
                "mode": row["mode"],
                "mask": f"{MASKS}/{names[position]}{Path(row['mask']).suffix}",
                "overlay": f"{OVERLAYS}/{names[position]}.png" if row["overlay"] else None,
                "classes": [{"id": k, "name": label, "pixels": n, "share": x} for k, label, n, x in classes],
            }

    if not args.slide:
        windows = f"too large for one pass, segmented in windows of {args.window} pixels"
        slid = (row["key"] for row in folder.rows(folder.finished_shards()) if row["mode"] == "slide")
        print_errors("segment", [{"file": name, "error": windows} for name in slid])
    if len(folder.finished_shards()) < len(folder.shards):  # other processes compute the rest
        return finish("segment", args, summary, errors)
    every_error = [*source.problems, *folder.errors()]
    contents = {"classes": list(predict.class_names), "results": results(), "errors": every_error}
    write_report(args.output / REPORT, contents)
    return finish("segment", args, summary, errors, args.output / REPORT)


def _save(image: "Image", path: Path) -> None:
    from glmix.files import atomic_write

    with atomic_write(path) as part:
        image.save(part, format="PNG")
