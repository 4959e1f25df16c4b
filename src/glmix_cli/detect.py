"""`glmix detect`: object detection in images, written as overlays with boxes and masks and as COCO JSON."""

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .images import ImageLoop, add_image_arguments
from .inputs import check_device
from .printing import printable
from .results import result_names

if TYPE_CHECKING:
    from glmix.tasks.detection.annotated import AnnotatedScores
    from glmix.tasks.detection.predictor import DetectionPredictor

HELP = "Detect objects in images with a model trained by `glmix fit`; write overlays and COCO JSON."
REPORT = "detections.json"
RESULTS = "results.json"
OVERLAY = "_overlay.png"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_image_arguments(parser, "larger images are downscaled first")
    parser.add_argument(
        "--checkpoint",
        type=Path,
        required=True,
        metavar="FILE",
        help=".ckpt of a detection model from `glmix fit`, or a folder of `glmix convert`",
    )
    parser.add_argument("-o", "--out", type=Path, required=True, metavar="OUT", help="folder for the results")
    parser.add_argument(
        "--score",
        type=float,
        default=0.5,
        metavar="X",
        help=f"minimum confidence score of detections in overlays and {REPORT}, from 0 to 1 (default: %(default)s)",
    )
    parser.add_argument(
        "--annotations",
        type=Path,
        metavar="FILE",
        help="COCO JSON with the ground truth of these images: use its image and category ids, write all detections to "
        f"OUT/{RESULTS} for COCO(FILE).loadRes, and print the average precision",
    )
    parser.add_argument("--no-overlays", action="store_true", help="write no overlays")
    parser.add_argument("--overwrite", action="store_true", help="replace existing results")
    parser.add_argument("--json", action="store_true", help=f"also print OUT/{REPORT}")
    parser.add_argument("--device", default="cpu", help="torch device, such as cpu or cuda (default: cpu)")


def run(args: argparse.Namespace) -> int:
    from glmix.errors import InputError
    from glmix.files import atomic_write, write_atomically
    from glmix.tasks.detection.predictor import DetectionPredictor, overlay

    check_device(args.device)
    loop = ImageLoop("detect", args.images, args.max_pixels)
    names = result_names(loop.found, len(OVERLAY))
    report = args.out / REPORT
    pictures = {} if args.no_overlays else {file: args.out / f"{name}{OVERLAY}" for file, name in names.items()}
    if not args.overwrite:
        targets = [report, *pictures.values(), *([] if args.annotations is None else [args.out / RESULTS])]
        existing = next((path for path in targets if path.exists()), None)
        if existing is not None:
            raise InputError(f"{existing} already exists: choose another folder, or replace it with --overwrite.")
    if not 0 <= args.score <= 1:
        raise InputError(f"--score must be from 0 to 1, got {args.score}.")
    detect = DetectionPredictor.from_checkpoint(
        args.checkpoint,
        score=args.score if args.annotations is None else None,
        device=args.device,
        max_input_pixels=args.max_input_pixels,
    )
    scores: AnnotatedScores | None = None
    places: dict[Path, int] = {}
    if args.annotations is not None:
        scores, places = _annotated(args, detect, loop)
    category_ids = detect.category_ids if scores is None else scores.annotated.category_ids
    categories = [{"id": number, "name": name} for number, name in zip(category_ids, detect.class_names, strict=True)]
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    try:
        for file in loop:
            with loop.attempt(file):
                if scores is None:
                    image = loop.open(file)
                else:
                    image = scores.annotated.image(file, places[file], args.max_pixels)
                if detect.is_too_large(image):
                    loop.notify(file, f"downscaled to {args.max_input_pixels:,} pixels for the detector")
                found = detect(image)
                if scores is not None:
                    scores.add(places[file], found)
                    found = found.above(args.score)
                number = len(images) + 1 if scores is None else scores.annotated.image_id(places[file])
                items = found.annotations(number, category_ids)
                if file in pictures:
                    with atomic_write(pictures[file]) as part:
                        overlay(image, found, detect.class_names).save(part, format="PNG")
                images.append({"id": number, "file_name": str(file), "width": image.width, "height": image.height})
                annotations += [{"id": k, **item} for k, item in enumerate(items, len(annotations) + 1)]
    finally:  # write the finished results even after a bug or an interruption
        contents: dict[str, Any] = {
            "images": images,
            "annotations": annotations,
            "categories": categories,
            "errors": loop.errors,
        }
        if images and scores is not None:
            contents["evaluation"] = scores.summary()
            write_atomically(args.out / RESULTS, json.dumps(scores.results) + "\n")
        if images:
            write_atomically(report, json.dumps(contents) + "\n")
        if args.json:
            print(json.dumps(contents))
        elif images:
            plural = "s" * (len(images) > 1)
            overlays = "" if args.no_overlays else f", and overlay{plural}"
            print(printable(f"{report}: {len(annotations)} objects in {len(images)} image{plural}{overlays}"))
            if scores is not None:
                print(_format_scores(contents["evaluation"], args.out / RESULTS, len(scores.results), detect.score))
        loop.print_errors()
    return loop.exit_code(len(images))


def _annotated(
    args: argparse.Namespace, detect: "DetectionPredictor", loop: ImageLoop
) -> tuple["AnnotatedScores", dict[Path, int]]:
    """Read --annotations and return an empty collection of scores and {file: its index in the JSON}.

    Files that are not in the JSON are recorded as errors of the loop.
    """
    from glmix.tasks.detection.annotated import Annotated, AnnotatedScores

    annotated = Annotated.read(args.annotations, detect.class_names)
    places, missing = annotated.match(list(loop.found), [path for path in args.images if path.is_dir()])
    for file in missing:
        loop.skip(file, f"not among the images of {args.annotations}")
    return AnnotatedScores(annotated, masks=detect.has_masks), places


def _format_scores(evaluation: dict[str, Any], results: Path, count: int, score: float) -> str:
    """Format the path of the result file and the average precision."""
    scores = evaluation["scores"]
    kinds = [kind for kind in ("box", "mask") if f"{kind}_AP" in scores]
    parts = [
        f"{kind} " + ", ".join(f"{name} {scores.get(f'{kind}_{name}', 0.0):.4f}" for name in ("AP", "AP50", "AP75"))
        for kind in kinds
    ]
    images, total = evaluation["images"], evaluation["images_in_file"]
    which = f"all {total}" if images == total else f"{images} of the {total}"
    return (
        f"{printable(str(results))}: {count} detections with a score of at least {score:g}\n"
        f"{'; '.join(parts)}: over {which} images of {printable(evaluation['file'])}"
    )
