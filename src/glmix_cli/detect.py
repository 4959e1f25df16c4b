"""`glmix detect`: objects in images, as pictures with boxes and masks, and as a COCO JSON."""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from .inputs import check_device
from .results import result_names

HELP = "Find objects in images: overlays and a COCO JSON, by a detector that `glmix fit` trained."
REPORT = "detections.json"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "images", nargs="+", type=Path, metavar="IMAGE", help="an image, or a folder searched for images"
    )
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
    from tqdm import tqdm

    from glmix.data.masks.pixels import read_upright
    from glmix.errors import InputError
    from glmix.files import whole_file, write_whole
    from glmix.tasks.detection.predictor import DetectionPredictor, overlay

    check_device(args.device)
    errors: list[dict[str, str]] = []
    names = result_names(args.images, errors)
    report = args.out / REPORT
    pictures = {} if args.no_overlays else {file: args.out / f"{name}_overlay.png" for file, name in names.items()}
    if not args.overwrite:
        there = next((path for path in (report, *pictures.values()) if path.exists()), None)
        if there is not None:
            raise InputError(f"{there} is there already: choose another folder, or replace it with --overwrite.")
    detect = DetectionPredictor.from_checkpoint(args.checkpoint, score=args.score, device=args.device)

    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for file in tqdm(names, unit="image", disable=None):
        try:
            image = read_upright(file)
            found = detect(image)
        except (OSError, ValueError, RuntimeError) as error:  # RuntimeError: no memory for so large an image
            errors.append({"file": str(file), "error": str(error)})
            continue
        number = len(images) + 1
        images.append({"id": number, "file_name": str(file), "width": image.width, "height": image.height})
        for result, area in zip(found.coco(number, detect.category_ids), found.areas, strict=True):
            annotations.append({"id": len(annotations) + 1, **result, "area": area, "iscrowd": 0})
        if file in pictures:
            with whole_file(pictures[file]) as part:
                overlay(image, found, detect.class_names).save(part, format="PNG", optimize=True)

    categories = [
        {"id": number, "name": name} for number, name in zip(detect.category_ids, detect.class_names, strict=True)
    ]
    contents = {"images": images, "annotations": annotations, "categories": categories, "errors": errors}
    if images:
        write_whole(report, json.dumps(contents) + "\n")
    if args.json:
        print(json.dumps(contents))
    elif images:
        plural = "s" * (len(images) > 1)
        overlays = "" if args.no_overlays else f", and overlay{plural}"
        print(f"{report}: {len(annotations)} objects in {len(images)} image{plural}{overlays}")
    for failure in errors:
        print(f"glmix detect: {failure['file']}: {failure['error']}", file=sys.stderr)
    if not images:
        return 2
    return 1 if errors else 0
