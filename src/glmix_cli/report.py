"""`glmix report`: write a report from stored predictions."""

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from glmix.reports import Predictions

HELP = "Write a report on predictions that `glmix validate` or `glmix test` stored, or on those of any other model."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "predictions",
        type=Path,
        help="a run folder or a folder of predictions (RUN/reports/val); or a CSV file with the columns target, "
        "optionally name, and one column of probabilities per class; or detections in COCO's results format (JSON)",
    )
    parser.add_argument("--split", choices=("val", "test"), help="split to report, for a run folder (default: val)")
    parser.add_argument(
        "-o", "--output", type=Path, help="folder of the report (default: the folder of the predictions)"
    )
    parser.add_argument(
        "--fit-on",
        type=Path,
        metavar="FOLDER",
        help="fit the temperature and the thresholds of a classifier on the predictions in FOLDER (default: on the "
        "reported predictions)",
    )
    parser.add_argument("--multi-label", action="store_true", help="CSV: an image may have several classes, as A|B")
    parser.add_argument("--truth", type=Path, metavar="FILE", help="detections: the COCO JSON with the ground truth")
    parser.add_argument(
        "--images", type=Path, metavar="FOLDER", help="CSV and detections: folder of the images, for thumbnails"
    )
    parser.add_argument("--title", help="heading of the report")
    parser.add_argument("--json", action="store_true", help="print the scores and the files of the report as JSON")


def run(args: argparse.Namespace) -> int:
    from glmix.errors import InputError
    from glmix.reports import write_report
    from glmix.reports.pictures import image_opener
    from glmix.reports.report import NUMBERS, PAGE, TEXT

    folder, open_image = args.predictions, None
    if folder.is_file():
        if args.split is not None:
            raise InputError(f"--split needs a run folder, but {folder} is a file.")
        if args.output is None:
            raise InputError(f"{folder} is a file: set the folder of the report with -o.")
        predictions = _predictions(args)
        if args.images is not None:
            open_image = image_opener(predictions.names, args.images)
        predictions.save(args.output)
        folder = args.output
    else:
        for name in ("images", "truth", "multi_label"):
            if getattr(args, name):
                raise InputError(f"--{name.replace('_', '-')} needs a file of predictions, but {folder} is not a file.")
        run_folder = folder / "reports"
        if run_folder.is_dir() or args.split is not None:
            folder = run_folder / (args.split or "val")
    output = folder if args.output is None else args.output
    report = write_report(folder, output, fit_on=args.fit_on, open_image=open_image, title=args.title)
    files = [str(output / name) for name in (PAGE, TEXT, NUMBERS)]
    if args.json:
        print(json.dumps({"task": report["task"], "scores": report["scores"], "files": files}, indent=2))
    else:
        for name, value in report["scores"].items():
            print(f"{name:28} {value:.4f}")
        print(f"Report: {files[0]}")
    return 0


def _predictions(args: argparse.Namespace) -> "Predictions":
    """Read the predictions of a CSV file or of a COCO results JSON."""
    from glmix.errors import InputError
    from glmix.reports import read_detections, read_table

    path = args.predictions
    if path.suffix == ".json":
        if args.truth is None:
            raise InputError(f"{path} contains detections: give the COCO JSON of the ground truth with --truth.")
        return read_detections(path, args.truth)
    return read_table(path, multi_label=args.multi_label)
