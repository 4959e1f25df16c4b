"""`glmix weakseg fit | seeds | evaluate`: from image labels to semantic masks."""

import argparse
import json
import sys
from collections.abc import Iterator

HELP = "Learn to segment from image labels alone: a classifier, its seeds, and a segmenter trained on them."
STEPS = {
    "fit": "Train the classifier.",
    "seeds": "Choose the background threshold and write pseudo masks for the training images.",
    "evaluate": "Train the segmenter on the pseudo masks and measure seeds, pseudo masks and segmenter.",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("step", choices=STEPS, help=" ".join(f"{name}: {text}" for name, text in STEPS.items()))
    parser.add_argument(
        "--config",
        required=True,
        metavar="FILE|NAME",
        help="a YAML file, or a shipped recipe such as weakseg/scenes (`glmix configs` lists them)",
    )
    parser.add_argument("--json", action="store_true", help="print the result of evaluate as JSON")
    parser.add_argument(
        "--set",
        dest="changes",
        nargs=2,
        action="append",
        default=[],
        metavar=("KEY", "VALUE"),
        help="another value than the file's: --set out runs/second --set seeds.method cam",
    )


def run(args: argparse.Namespace) -> int:
    from tqdm import tqdm

    from glmix.configs import find_config
    from glmix.tasks.process import quiet
    from glmix.tasks.weakseg import pipeline
    from glmix.tasks.weakseg.config import read_weakseg

    config = read_weakseg(
        find_config(args.config), [part for key, value in args.changes for part in (f"--{key}", value)]
    )

    def say(text: str) -> None:
        print(text, file=sys.stderr)

    def watch(loop: Iterator[int], count: int, what: str) -> Iterator[int]:
        yield from tqdm(loop, total=count, desc=what, disable=None, unit="image")

    with quiet():
        if args.step == "fit":
            pipeline.fit(config, say)
        elif args.step == "seeds":
            pipeline.seeds(config, say, watch)
        else:
            result = pipeline.evaluate(config, say, watch)
            print(json.dumps(result) if args.json else _table(result))
    return 0


def _table(result: dict) -> str:  # type: ignore[type-arg]
    """IoU in % of each class and their mean, a column for each stage."""
    stages = ("seeds", "pseudo masks", "segmenter")
    width = max(len(name) for name in (*result["classes"], "mean IoU"))
    lines = [" " * width + "".join(f"{stage:>14}" for stage in stages)]
    for k, name in enumerate(result["classes"]):
        lines.append(f"{name:<{width}}" + "".join(f"{100 * result[stage]['iou'][k]:>14.1f}" for stage in stages))
    lines.append(f"{'mean IoU':<{width}}" + "".join(f"{100 * result[s]['mean_iou']:>14.1f}" for s in stages))
    lines.append(f"In %, background below {result['threshold']}. Seeds and segmenter: validation images; pseudo masks:")
    lines.append("training images.")
    return "\n".join(lines)
