"""`glmix detect`: objects in images, as pictures with boxes and masks, and as a COCO JSON."""

import argparse
import json
from pathlib import Path
from typing import Any

from .images import ImageLoop, add_image_arguments
from .inputs import check_device
from .printing import printable
from .results import result_names

HELP = "Find objects in images: overlays and a COCO JSON, by a detector that `glmix fit` trained."
REPORT = "detections.json"
OVERLAY = "_overlay.png"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_image_arguments(parser, "larger images are scaled down first")
    parser.add_argument("--checkpoint", type=Path, required=True, metavar="FILE", help="a .ckpt of a detection")
    parser.add_argument("-o", "--out", type=Path, required=True, metavar="OUT", help="folder for the results")
    parser.add_argument(
        "--score", type=float, default=0.5, metavar="X", help="least score that is told, from 0 to 1 (%(default)s)"
    )
    parser.add_argument("--no-overlays", action="store_true", help=f"write {REPORT} alone")
    parser.add_argument("--overwrite", action="store_true", help="replace results that are there already")
    parser.add_argument("--json", action="store_true", help=f"print OUT/{REPORT} too, for programs")
    parser.add_argument("--device", default="cpu", help="where to compute, such as cpu or cuda (default: cpu)")


def run(args: argparse.Namespace) -> int:
    from glmix.errors import InputError
    from glmix.files import whole_file, write_whole
    from glmix.tasks.detection.predictor import DetectionPredictor, overlay

    check_device(args.device)
    loop = ImageLoop("detect", args.images, args.max_pixels)
    names = result_names(loop.found, len(OVERLAY))
    report = args.out / REPORT
    pictures = {} if args.no_overlays else {file: args.out / f"{name}{OVERLAY}" for file, name in names.items()}
    if not args.overwrite:
        there = next((path for path in (report, *pictures.values()) if path.exists()), None)
        if there is not None:
            raise InputError(f"{there} is there already: choose another folder, or replace it with --overwrite.")
    detect = DetectionPredictor.from_checkpoint(
        args.checkpoint, score=args.score, device=args.device, max_input_pixels=args.max_input_pixels
    )

    categories = [
        {"id": number, "name": name} for number, name in zip(detect.category_ids, detect.class_names, strict=True)
    ]
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    try:
        for file in loop:
            with loop.attempt(file):
                image = loop.open(file)
                if detect.is_too_large(image):
                    loop.say(file, f"scaled down to {args.max_input_pixels:,} pixels for the detector")
                found = detect(image)
                number = len(images) + 1
                results = zip(found.coco(number, detect.category_ids), found.areas, strict=True)
                items = [{**result, "area": area, "iscrowd": 0} for result, area in results]
                if file in pictures:
                    with whole_file(pictures[file]) as part:
                        overlay(image, found, detect.class_names).save(part, format="PNG")
                images.append({"id": number, "file_name": str(file), "width": image.width, "height": image.height})
                annotations += [{"id": k, **item} for k, item in enumerate(items, len(annotations) + 1)]
    finally:  # a bug or an interruption loses nothing of what was done
        contents = {"images": images, "annotations": annotations, "categories": categories, "errors": loop.errors}
        if images:
            write_whole(report, json.dumps(contents) + "\n")
        if args.json:
            print(json.dumps(contents))
        elif images:
            plural = "s" * (len(images) > 1)
            overlays = "" if args.no_overlays else f", and overlay{plural}"
            print(printable(f"{report}: {len(annotations)} objects in {len(images)} image{plural}{overlays}"))
        loop.print_errors()
    return loop.exit_code(len(images))
