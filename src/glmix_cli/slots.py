"""`glmix slots score` and `glmix slots discover`: evaluate slots as segmentations, in comparison with controls."""

import argparse
import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .inputs import add_model_arguments, check_device, load_classifier

if TYPE_CHECKING:
    from glmix import GLNet

HELP = "Score the slots of a model as segmentations, or discover objects with them, and compare with controls."
SCORE = "Score the slots of each block as segmentations, and compare with controls of the same number of segments."
DISCOVER = "Discover objects without masks from the slots of a classifier, and compare with controls."
CONTROLS = ["untrained", "grid", "SLIC", "SLIC blurred", "k-means"]  # of scoring.py, slow to import


def add_arguments(parser: argparse.ArgumentParser) -> None:
    what = parser.add_subparsers(dest="what", metavar="score|discover", required=True)
    score = what.add_parser("score", help=SCORE, description=SCORE)
    discover = what.add_parser("discover", help=DISCOVER, description=DISCOVER)
    for command, name in ((score, "scores"), (discover, "discovery")):
        command.add_argument(
            "--data", required=True, metavar="scenes|ROOT", help="generated scenes, or a folder of images with masks"
        )
        command.add_argument("--layout", choices=["ade20k", "voc", "folder"], help="folder layout of ROOT")
        command.add_argument(
            "--split", default="val", help="train, val, test or the name of a VOC image list (default: val)"
        )
        add_model_arguments(command)
        command.add_argument(
            "-o", "--out", type=Path, required=True, metavar="OUT", help=f"folder for {name}.md, .json, .png"
        )
        command.add_argument("--overwrite", action="store_true", help="overwrite existing results")
        command.add_argument(
            "--count", type=int, metavar="N", help="number of images (default: 200 scenes, or all of ROOT)"
        )
        command.add_argument(
            "--size", type=int, metavar="N", help="shorter side of the images in pixels (default: the model's)"
        )
        command.add_argument(
            "--objects",
            type=int,
            nargs="+",
            default=[1, 3],
            metavar="N",
            help="objects per scene: a number, or minimum and maximum (default: 1 3)",
        )
        command.add_argument(
            "--blocks",
            type=int,
            nargs="+",
            metavar="N",
            help="indices of blocks with slots, from 0 in the order of execution, negative from the end (default: all)",
        )
        command.add_argument("--seed", type=int, default=0, metavar="N", help="seed of the controls (default: 0)")
        command.add_argument("--batch-size", type=int, default=16, metavar="N", help="images per batch (default: 16)")
        command.add_argument("--device", default="cpu", help="torch device, such as cpu or cuda (default: cpu)")
        command.add_argument("--json", action="store_true", help="print the results as JSON")
    score.add_argument(
        "--segments",
        type=int,
        nargs="*",
        default=[4, 8, 16],
        metavar="N",
        help="numbers of segments for all blocks together (default: 4 8 16)",
    )
    score.add_argument(
        "--controls",
        nargs="*",
        default=CONTROLS,
        choices=CONTROLS,
        help="controls to compare with (default: all)",
    )
    discover.add_argument("--clusters", type=int, default=4, metavar="N", help="clusters of k-means (default: 4)")
    discover.add_argument(
        "--sign",
        choices=["border", "classes"],
        default="border",
        help="side of a cut that becomes the object: the side away from the image border, or the side with the class "
        "evidence (default: border)",
    )


def run(args: argparse.Namespace) -> int:
    from tqdm import tqdm

    from glmix import slots

    _check(args)
    objects = tuple(args.objects * 2 if len(args.objects) == 1 else args.objects)
    data = slots.GroupingData(
        args.data, args.layout, split=args.split, count=args.count, size=args.size, objects=objects
    )
    model = _load(args)
    args.out.mkdir(parents=True, exist_ok=True)
    if not os.access(args.out, os.W_OK | os.X_OK):
        raise PermissionError(f"{args.out} cannot be written to.")

    def failed(name: str, error: Exception) -> None:
        bar.write(f"glmix slots {args.what}: {name}: {error}", file=sys.stderr)
        bar.update()

    options: dict[str, Any] = {"blocks": args.blocks, "seed": args.seed, "batch_size": args.batch_size}
    options |= {"source": str(args.checkpoint or args.model), "failed": failed}
    with tqdm(total=len(data), unit="image", disable=None) as bar:
        if args.what == "score":
            choices = {"segments": args.segments, "controls": args.controls}
            report = slots.score(model, data, **options, **choices, progress=bar.update)
        else:
            choices = {"clusters": args.clusters, "sign": args.sign}
            report = slots.discover(model, data, **options, **choices, progress=bar.update)
    written = report.save(args.out)
    if args.json:
        print(json.dumps(report.contents, indent=2))
    else:
        print(f"{report.text}\nWritten to {args.out}: {', '.join(path.name for path in written)}.")
    return 1 if report.contents["errors"] else 0


def _check(args: argparse.Namespace) -> None:
    """Check the arguments before anything is loaded."""
    from glmix.errors import InputError

    if args.model is None and args.checkpoint is None:
        raise InputError("No model was given: use --checkpoint, or --model local-dir:FOLDER.")
    stem = "scores" if args.what == "score" else "discovery"
    names = [f"{stem}.{kind}" for kind in ("md", "json", "png")]
    if args.what == "score" and args.segments:
        names.append("segments.png")
    existing = next((args.out / name for name in names if (args.out / name).exists()), None)
    if existing is not None and not args.overwrite:
        raise InputError(f"{existing} exists: choose another folder, or overwrite it with --overwrite.")


def _load(args: argparse.Namespace) -> "GLNet":
    """Load the model, and check that it has slots."""
    from glmix.slots import blocks_with_slots
    from glmix.slots.figure import page  # noqa: F401 - report a missing extra before the model is loaded

    check_device(args.device)
    model = load_classifier(args.model, args.checkpoint).eval()
    blocks_with_slots(model)
    return model.to(args.device)
