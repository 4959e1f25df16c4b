"""`glmix detect`: objects in images, as pictures with boxes and masks, and as a COCO JSON."""

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .inputs import check_device
from .results import result_names

if TYPE_CHECKING:
    from collections.abc import Iterable

    from glmix.tasks.detection.annotated import AnnotatedScores
    from glmix.tasks.detection.predictor import DetectionPredictor

HELP = "Find objects in images: overlays and a COCO JSON, by a detector that `glmix fit` trained."
REPORT = "detections.json"
RESULTS = "results.json"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "images", nargs="+", type=Path, metavar="IMAGE", help="an image, or a folder searched for images"
    )
    parser.add_argument("--checkpoint", type=Path, required=True, metavar="FILE", help="a .ckpt of a detection")
    parser.add_argument("-o", "--out", type=Path, required=True, metavar="OUT", help="folder for the results")
    parser.add_argument(
        "--score",
        type=float,
        default=0.5,
        metavar="X",
        help=f"lowest score of a detection in overlays and {REPORT}, from 0 to 1 (%(default)s)",
    )
    parser.add_argument(
        "--annotations",
        type=Path,
        metavar="FILE",
        help=f"a COCO JSON of these images: keep its image and category ids, write OUT/{RESULTS} with all detections "
        "for COCO(FILE).loadRes, and print the average precision",
    )
    parser.add_argument("--no-overlays", action="store_true", help="write no pictures")
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
        targets = [report, *pictures.values(), *([] if args.annotations is None else [args.out / RESULTS])]
        there = next((path for path in targets if path.exists()), None)
        if there is not None:
            raise InputError(f"{there} is there already: choose another folder, or replace it with --overwrite.")
    if not 0 <= args.score <= 1:
        raise InputError(f"--score must be from 0 to 1, got {args.score}.")
    score = args.score if args.annotations is None else None
    detect = DetectionPredictor.from_checkpoint(args.checkpoint, score=score, device=args.device)
    scores: AnnotatedScores | None = None
    places: dict[Path, int] = {}
    if args.annotations is not None:
        scores, places = _annotated(args, detect, names, errors)
        names = {file: name for file, name in names.items() if file in places}

    category_ids = detect.category_ids if scores is None else scores.annotated.category_ids
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for file in tqdm(names, unit="image", disable=None):
        try:
            image = read_upright(file) if scores is None else scores.annotated.image(file, places[file])
            found = detect(image)
            if scores is not None:
                scores.add(places[file], found)
                found = found.above(args.score)
        except (OSError, ValueError, RuntimeError) as error:  # RuntimeError: no memory for so large an image
            errors.append({"file": str(file), "error": str(error)})
            continue
        number = len(images) + 1 if scores is None else scores.annotated.image_id(places[file])
        images.append({"id": number, "file_name": str(file), "width": image.width, "height": image.height})
        for result, area in zip(found.coco(number, category_ids), found.areas, strict=True):
            annotations.append({"id": len(annotations) + 1, **result, "area": area, "iscrowd": 0})
        if file in pictures:
            with whole_file(pictures[file]) as part:
                overlay(image, found, detect.class_names).save(part, format="PNG", optimize=True)

    categories = [{"id": number, "name": name} for number, name in zip(category_ids, detect.class_names, strict=True)]
    contents: dict[str, Any] = {
        "images": images,
        "annotations": annotations,
        "categories": categories,
        "errors": errors,
    }
    if images and scores is not None:
        contents["evaluation"] = scores.summary()
        write_whole(args.out / RESULTS, json.dumps(scores.results) + "\n")
    if images:
        write_whole(report, json.dumps(contents) + "\n")
    if args.json:
        print(json.dumps(contents))
    elif images:
        plural = "s" * (len(images) > 1)
        overlays = "" if args.no_overlays else f", and overlay{plural}"
        print(f"{report}: {len(annotations)} objects in {len(images)} image{plural}{overlays}")
        if scores is not None:
            print(_told(contents["evaluation"], args.out / RESULTS, len(scores.results), detect.score))
    for failure in errors:
        print(f"glmix detect: {failure['file']}: {failure['error']}", file=sys.stderr)
    if not images:
        return 2
    return 1 if errors else 0


def _annotated(
    args: argparse.Namespace, detect: "DetectionPredictor", files: "Iterable[Path]", errors: list[dict[str, str]]
) -> tuple["AnnotatedScores", dict[Path, int]]:
    """Read --annotations: an empty collection of scores, and {file: its place in the JSON}.

    Files that are not in the JSON are added to `errors`.
    """
    from glmix.tasks.detection.annotated import Annotated, AnnotatedScores

    annotated = Annotated.read(args.annotations, detect.class_names)
    places, missing = annotated.match(list(files), [path for path in args.images if path.is_dir()])
    for file in missing:
        errors.append({"file": str(file), "error": f"it is not among the images of {args.annotations}"})
    return AnnotatedScores(annotated, masks=detect.has_masks), places


def _told(evaluation: dict[str, Any], results: Path, count: int, score: float) -> str:
    """The file of results and the average precision, in words."""
    scores = evaluation["scores"]
    kinds = [kind for kind in ("box", "mask") if f"{kind}_AP" in scores]
    parts = [
        f"{kind} " + ", ".join(f"{name} {scores.get(f'{kind}_{name}', 0.0):.4f}" for name in ("AP", "AP50", "AP75"))
        for kind in kinds
    ]
    images, total = evaluation["images"], evaluation["images_in_file"]
    which = f"all {total}" if images == total else f"{images} of the {total}"
    return (
        f"{results}: {count} detections with a score of at least {score:g}\n"
        f"{'; '.join(parts)}: over {which} images of {evaluation['file']}"
    )
