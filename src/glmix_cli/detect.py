"""`glmix detect`: object detection in images, written as overlays with boxes and masks and as COCO JSON."""

import argparse
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .images import add_input_limit, positive_integer, print_errors
from .inputs import check_device
from .pipeline import add_pipeline_arguments, compute, finish
from .printing import printable
from .results import result_names, rows_with_names, write_report

if TYPE_CHECKING:
    from glmix.inference import ResultFolder, Source
    from glmix.tasks.detection.annotated import Annotated
    from glmix.tasks.detection.predictor import DetectionPredictor

HELP = "Detect objects in images with a model trained by `glmix fit`; write overlays, rows and COCO JSON."
REPORT, RESULTS, OVERLAYS = "detections.json", "results.json", "overlays"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_pipeline_arguments(parser, True, batch_size=8, shard_size=64, formats=("parquet", "jsonl"))
    add_input_limit(parser, "larger images are downscaled first")
    parser.add_argument(
        "--checkpoint",
        type=Path,
        required=True,
        metavar="FILE",
        help=".ckpt of a detection model from `glmix fit`, or a folder of `glmix convert`",
    )
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
        f"OUTPUT/{RESULTS} for COCO(FILE).loadRes, and print the average precision",
    )
    parser.add_argument(
        "--tile",
        type=positive_integer,
        metavar="N",
        help="detect objects in larger images by overlapping tiles of N x N pixels (default: whole images)",
    )
    parser.add_argument(
        "--overlap",
        type=int,
        metavar="M",
        help="pixels that neighbouring tiles share, at least the size of the largest objects (default: a quarter of "
        "--tile)",
    )
    parser.add_argument("--no-overlays", action="store_true", help="write no overlays")
    parser.add_argument("--json", action="store_true", help=f"also print OUTPUT/{REPORT}")


def run(args: argparse.Namespace) -> int:
    from torch import Tensor
    from torchvision.transforms.v2.functional import to_pil_image

    from glmix.errors import InputError
    from glmix.files import atomic_write
    from glmix.inference import open_source
    from glmix.tasks.detection.annotated import AnnotatedSource, read_annotated
    from glmix.tasks.detection.predictor import DetectionPredictor, overlay
    from glmix.tasks.detection.tiles import Tiles

    check_device(args.device)
    if args.tile is None and args.overlap is not None:
        raise InputError("--overlap applies to tiles only and needs --tile.")
    if not 0 <= args.score <= 1:
        raise InputError(f"--score must be from 0 to 1, got {args.score}.")
    detect = DetectionPredictor.from_checkpoint(
        args.checkpoint,
        score=args.score if args.annotations is None else None,
        device=args.device,
        max_input_pixels=args.max_input_pixels,
        max_pixels=args.max_pixels,
        tiles=None if args.tile is None else Tiles(args.tile, args.tile // 4 if args.overlap is None else args.overlap),
    )
    source = open_source(args.images, args.column)
    names = result_names(source, args.images, len(".png"))
    annotated: Annotated | None = None
    indices: list[int] = []
    sizes: str | None = None
    if args.annotations is not None:
        annotated, indices = _match(args, detect, source)
        source = stored = AnnotatedSource(source, annotated, indices, args.max_pixels)
        detect.read, sizes = read_annotated, stored.fingerprint

    def save(position: int, row: dict[str, Any]) -> None:
        if not isinstance(row["image"], Tensor):  # no overlay for a large image that was read in tiles
            return
        row["overlay"] = f"{OVERLAYS}/{names[position]}.png"
        picture = overlay(to_pil_image(row["image"]), row["found"].above(args.score), detect.class_names)
        with atomic_write(args.output / row["overlay"]) as part:
            picture.save(part, format="PNG")

    summary, folder, errors = compute(
        args,
        detect,
        source,
        columns={"overlay": "string"},
        save=None if args.no_overlays else save,
        others=(OVERLAYS, REPORT, RESULTS),
        options={
            "overlays": None if args.no_overlays else args.score,
            "annotations": sizes,
        },
    )
    scaled = f"downscaled to {args.max_input_pixels:,} pixels for the detector"
    smaller = (
        row["key"]
        for row in folder.rows(folder.finished_shards())
        if not row["error"] and row["input_width"] < row["width"]
    )
    print_errors("detect", [{"file": name, "error": scaled} for name in smaller])
    if len(folder.finished_shards()) < len(folder.shards):  # other processes compute the rest
        return finish("detect", args, summary, errors)

    _write_reports(args, detect, source, folder, annotated, indices, has_detections=summary.images > summary.errors)
    return finish("detect", args, summary, errors, args.output / REPORT)


def _write_reports(
    args: argparse.Namespace,
    detect: "DetectionPredictor",
    source: "Source",
    folder: "ResultFolder",
    annotated: "Annotated | None",
    indices: list[int],
    *,
    has_detections: bool,
) -> None:
    """Write the COCO JSON of all detections, and with --annotations the results file and the average precision.

    Args:
        args: the arguments of the command.
        detect: the detector.
        source: images.
        folder: their rows.
        annotated: content of --annotations.
        indices: index of each image in `annotated`.
        has_detections: whether any image was processed without an error.
    """
    from glmix.tasks.detection.annotated import AnnotatedScores
    from glmix.tasks.detection.predictor import Detections

    def found() -> Iterator[tuple[int, int, str, dict[str, Any]]]:
        """Yield the image id, the index in the annotations, the name and the row of each image without an error."""
        for count, (position, name, row) in enumerate(rows_with_names(folder, source), start=1):
            index = indices[position] if annotated else 0
            yield annotated.image_id(index) if annotated else count, index, name, row

    ids = detect.category_ids if annotated is None else annotated.category_ids
    contents: dict[str, Any] = {
        "images": (
            {"id": number, "file_name": name, "width": row["width"], "height": row["height"]}
            for number, _, name, row in found()
        ),
        "annotations": (
            {"id": k, **item}
            for k, item in enumerate(
                (
                    item
                    for number, _, _, row in found()
                    for item in Detections.from_row(row).above(args.score).annotations(number, ids)
                ),
                start=1,
            )
        ),
        "categories": [{"id": number, "name": name} for number, name in zip(ids, detect.class_names, strict=True)],
        "errors": [*source.problems, *folder.errors()],
    }
    if annotated is not None and has_detections:
        scores = AnnotatedScores(annotated, masks=detect.has_masks)
        for _, index, _, row in found():
            scores.add(index, Detections.from_row(row))
        contents["evaluation"] = scores.summary()
        write_report(
            args.output / RESULTS,
            (item for number, _, _, row in found() for item in Detections.from_row(row).coco(number, ids)),
        )
        if not args.json:
            print(_format_scores(contents["evaluation"], args.output / RESULTS, detect.score))
    write_report(args.output / REPORT, contents)


def _match(args: argparse.Namespace, detect: "DetectionPredictor", source: "Source") -> tuple["Annotated", list[int]]:
    """Read --annotations, and return them and the index of each image in them, -1 for an image that is not there."""
    from glmix.tasks.detection.annotated import Annotated

    annotated = Annotated.read(args.annotations, detect.class_names)
    files = [Path(source.key(index)) for index in range(len(source))]
    matched, _ = annotated.match(files, [Path(name) for name in args.images if os.path.isdir(name)])
    return annotated, [matched.get(file, -1) for file in files]


def _format_scores(evaluation: dict[str, Any], results: Path, score: float) -> str:
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
        f"{printable(str(results))}: all detections with a score of at least {score:g}\n"
        f"{'; '.join(parts)}: over {which} images of {printable(evaluation['file'])}"
    )
