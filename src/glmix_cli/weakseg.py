"""`glmix weakseg fit | seeds | evaluate`: train weakly supervised semantic segmentation from image labels."""

import argparse
import json
import sys
from collections.abc import Iterator
from typing import Any

HELP = "Train segmentation from image labels only: a classifier, its seeds, and a segmenter trained on pseudo masks."
STEPS = {
    "fit": "Train the classifier.",
    "seeds": "Choose the background threshold and write a pseudo mask for every training image.",
    "evaluate": "Train the segmenter on the pseudo masks, and measure IoU where ground truth masks are available.",
}
METHODS = "cam slots slotcut dense gradcam gradcam++ layercam xgradcam eigengradcam hirescam"
EXAMPLES = """examples:
  The whole pipeline on generated scenes:
    glmix weakseg fit      --config weak_segmentation/scenes
    glmix weakseg seeds    --config weak_segmentation/scenes
    glmix weakseg evaluate --config weak_segmentation/scenes

  Your own photographs without masks, one folder per class (photos/cat/1.jpg, photos/dog/2.jpg):
    glmix weakseg fit --config weak_segmentation/photos --set data.images.folder photos
  The same with several classes per image, from a CSV file with the header `file,labels` and rows `1.jpg,cat;dog`:
    glmix weakseg fit --config weak_segmentation/photos --set data.images.folder photos \\
        --set data.images.labels labels.csv

  Compare methods without training a segmenter, then train it on the pseudo masks of the best method:
    glmix weakseg seeds    --config weak_segmentation/scenes --method cam layercam slotcut
    glmix weakseg evaluate --config weak_segmentation/scenes --seeds-only
    glmix weakseg evaluate --config weak_segmentation/scenes --method slotcut

Run the steps in this order, with the same configuration. See docs/weak_segmentation.md.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = EXAMPLES
    parser.add_argument("step", choices=STEPS, help=" ".join(f"{name}: {text}" for name, text in STEPS.items()))
    parser.add_argument(
        "--config",
        required=True,
        metavar="FILE|NAME",
        help="a YAML file or the name of a recipe (see `glmix configs`), such as weak_segmentation/scenes",
    )
    parser.add_argument(
        "--method",
        nargs="+",
        default=[],
        metavar="NAME",
        help=f"seeds: methods, each of which writes to its own folder ({METHODS}). evaluate: names of the seeds to "
        "measure; one name without --seeds-only. Default: seeds.method of the configuration; with --seeds-only, all "
        "seeds that exist",
    )
    parser.add_argument(
        "--name",
        metavar="NAME",
        help="seeds: name of the output folder for one method, to compare several settings of it "
        "(default: the name of the method)",
    )
    parser.add_argument(
        "--seeds-only", action="store_true", help="evaluate: measure seeds and pseudo masks without a segmenter"
    )
    parser.add_argument("--json", action="store_true", help="evaluate: print the result as JSON")
    parser.add_argument(
        "--set",
        dest="changes",
        nargs=2,
        action="append",
        default=[],
        metavar=("KEY", "VALUE"),
        help="replace a value of the configuration: --set out runs/second --set seeds.views 8",
    )


def run(args: argparse.Namespace) -> int:
    from glmix.errors import InputError

    if args.method and args.step == "fit":
        raise InputError("--method is for the steps seeds and evaluate: all methods use the same classifier.")
    if args.name is not None and args.step != "seeds":
        raise InputError(f"--name is for the step seeds, got {args.step}; evaluate takes names with --method.")
    if args.seeds_only and args.step != "evaluate":
        raise InputError(f"--seeds-only is for the step evaluate, got {args.step}.")
    if args.step == "evaluate" and not args.seeds_only and len(args.method) > 1:
        raise InputError(f"--method takes one name without --seeds-only, got {' '.join(args.method)}.")

    from tqdm import tqdm

    from glmix.configs import find_config
    from glmix.tasks.weak_segmentation import evaluation, pipeline, seeding
    from glmix.tasks.weak_segmentation.config import read_weakseg
    from glmix.training.process import quiet

    config = read_weakseg(
        find_config(args.config), [part for key, value in args.changes for part in (f"--{key}", value)]
    )

    def log(text: str) -> None:
        print(text, file=sys.stderr)

    def progress(loop: Iterator[int], count: int, description: str) -> Iterator[int]:
        yield from tqdm(loop, total=count, desc=description, disable=None, unit="image")

    with quiet():
        if args.step == "fit":
            pipeline.fit(config, log)
        elif args.step == "seeds":
            seeding.seeds(config, args.method, args.name, log, progress)
        elif args.seeds_only:
            result = evaluation.compare(config, args.method, progress)
            print(json.dumps(result) if args.json else _methods_table(result))
        else:
            result = evaluation.evaluate(config, args.method[0] if args.method else None, log, progress)
            print(json.dumps(result) if args.json else _table(result))
    return 0


def _percent(scores: dict[str, Any] | None, k: int | None = None) -> str:
    """Return the mean IoU, or the IoU of class `k`, in percent; a dash without scores."""
    if scores is None:
        return "-"
    return f"{100 * (scores['mean_iou'] if k is None else scores['iou'][k]):.1f}"


def _table(result: dict[str, Any]) -> str:
    """Format the IoU in percent of each class and their mean, one column per stage that was measured."""
    stages = [stage for stage in ("seeds", "pseudo masks", "segmenter") if result[stage] is not None]
    notes = [
        f"Seeds by {result['method']}, background below {result['threshold']}: {result['chosen']}.",
        *_measured_on(result),
        f"Segmenter: {result['checkpoint']}",
    ]
    if not stages:
        return "\n".join(notes)
    width = max(len(name) for name in (*result["classes"], "mean IoU"))
    lines = [" " * width + "".join(f"{stage:>14}" for stage in stages)]
    for k, name in enumerate(result["classes"]):
        lines.append(f"{name:<{width}}" + "".join(f"{_percent(result[stage], k):>14}" for stage in stages))
    lines.append(f"{'mean IoU':<{width}}" + "".join(f"{_percent(result[stage]):>14}" for stage in stages))
    return "\n".join([*lines, "IoU in %.", *notes])


def _methods_table(result: dict[str, Any]) -> str:
    """Format one row per method: threshold, mean IoU in percent, foreground fraction."""
    methods = result["methods"]
    width = max(len(name) for name in (*methods, "method"))
    lines = [f"{'method':<{width}}{'threshold':>11}{'seeds':>8}{'pseudo masks':>14}{'foreground':>12}"]
    for name, found in methods.items():
        lines.append(
            f"{name:<{width}}{found['threshold']:>11.2f}{_percent(found['seeds']):>8}"
            f"{_percent(found['pseudo masks']):>14}{100 * found['foreground']:>11.1f}%"
        )
    lines.append("Mean IoU in %; foreground: its share in the pseudo masks. Thresholds:")
    lines += [f"  {name}: {found['chosen']}" for name, found in methods.items()]
    return "\n".join([*lines, *_measured_on(next(iter(methods.values())))])


def _measured_on(found: dict[str, Any]) -> list[str]:
    """Return lines with the images on which the scores were measured, and those without scores."""
    where = {"seeds": "validation images", "pseudo masks": "training images"}
    measured = [f"{name} by the masks of the {images}" for name, images in where.items() if found[name] is not None]
    missing = [images for name, images in where.items() if found[name] is None]
    lines = [f"Measured: {'; '.join(measured)}."] if measured else []
    lines += [f"Not measured: {images}, which have no ground truth masks." for images in missing]
    return lines
