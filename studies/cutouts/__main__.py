"""Study on real photographs: `python -m studies.cutouts STEP`, from `download` to `report`."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from tqdm import tqdm

from glmix_cli import run_command

HELP = (
    "Train and evaluate on photographs: cut-outs with exact masks on photographs of landscapes, from Debian packages."
)
TASKS = ("segmentation", "detection")


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m studies.cutouts", description=HELP)
    steps = parser.add_subparsers(dest="step", required=True, metavar="STEP")
    helps = {
        "download": "download and unpack the Debian packages (317 MB) and the weights of the teacher (17 MB)",
        "build": "write the data set in the layouts ImageFolder, Pascal VOC and COCO",
        "classify": "train and evaluate classifiers; finished results are kept",
        "dense": "train and evaluate segmentation networks and detectors on several backbones",
        "slots": "score the slots of a classifier as segments, and discover objects; finished results are kept",
        "weak": "score class activation maps and SlotCut of the classifiers against exact masks",
        "report": "print the tables of all finished results",
    }
    for name, text in helps.items():
        step = steps.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".")
        step.add_argument(
            "--root", type=Path, default=Path("out/cutouts"), metavar="DIR", help="folder of the study (%(default)s)"
        )
        if name in ("classify", "dense", "slots", "weak", "report"):
            step.add_argument("--results", type=Path, metavar="DIR", help="folder of the results (ROOT/results)")
        if name == "build":
            step.add_argument("--size", type=int, default=96, metavar="N", help="side of the images (%(default)s)")
            step.add_argument("--seed", type=int, default=0, metavar="N", help="seed of the data set (%(default)s)")
        if name in ("classify", "dense"):
            step.add_argument(
                "--seconds", type=float, default=60.0, metavar="S", help="CPU time of each training (%(default)s)"
            )
            step.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], metavar="N", help="seeds (0 1 2)")
        if name == "report":
            step.add_argument("--picture", type=Path, metavar="FILE", help="also draw test images with masks")
        if name == "dense":
            step.add_argument(
                "--tasks", nargs="+", default=TASKS, choices=TASKS, metavar="T", help="segmentation, detection (both)"
            )
        if name == "classify":
            step.add_argument(
                "--methods", nargs="+", metavar="M", help="random, scratch, twice, distilled, scenes (all)"
            )
        if name in ("classify", "slots", "weak"):
            step.add_argument("--size", type=int, default=96, metavar="N", help="side of the input (%(default)s)")
        if name in ("classify", "dense", "slots", "weak"):
            step.add_argument("--threads", type=int, default=1, metavar="N", help="CPU threads (%(default)s)")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command with `argv`, or with the arguments of the process, and return its exit code."""
    args = parse(argv)
    return run_command("studies.cutouts", lambda: run(args))


def run(args: argparse.Namespace) -> int:
    """Run one step of the study."""
    packages, data = args.root / "packages", args.root / "data"
    results = getattr(args, "results", None) or args.root / "results"
    teacher = args.root / "teacher" / "efficientnet_lite0.safetensors"
    torch.set_num_threads(getattr(args, "threads", 1))
    if args.step == "download":
        from studies.cutouts.sources import download, read_sources
        from studies.cutouts.teacher import download_teacher

        download(read_sources(), packages)
        download_teacher(teacher)
    elif args.step == "build":
        from studies.cutouts.build import BuildConfig, build
        from studies.cutouts.sources import read_sources

        build(read_sources(), packages, data, BuildConfig(size=args.size, seed=args.seed))
    elif args.step == "classify":
        _classify(args, data, results, teacher)
    elif args.step == "dense":
        _dense(args, data, results)
    elif args.step == "slots":
        from studies.cutouts.slots import evaluate_slots

        evaluate_slots(data, results, args.size)
    elif args.step == "weak":
        from studies.cutouts.weak import evaluate_weak, trained_networks

        for method, seed in trained_networks(results):
            evaluate_weak(data, results, args.size, method, seed)
    else:
        from studies.cutouts.report import report

        print(report(results) or f"There are no results in {results}.")
        if args.picture is not None:
            from studies.cutouts.figures import segmentation_sheet

            segmentation_sheet(data, results).save(args.picture, quality=85)
    return 0


def _dense(args: argparse.Namespace, data: Path, results: Path) -> None:
    from studies.cutouts.dense import BACKBONES, TASKS
    from studies.cutouts.training import Budget

    budget = Budget(args.seconds, results / "dense-steps.json")
    runs = [(task, name, seed) for seed in args.seeds for task in args.tasks for name in BACKBONES]
    with tqdm(runs, unit="run") as bar:
        for task, name, seed in bar:
            bar.set_description(f"{task}, {name}, seed {seed}")
            TASKS[task](data, results, name, seed, budget)


def _classify(args: argparse.Namespace, data: Path, results: Path, teacher: Path) -> None:
    from studies.cutouts.classify import METHODS, classify, teacher_probe
    from studies.cutouts.training import Budget

    budget = Budget(args.seconds, results / "classify-steps.json")
    runs = [(method, seed) for seed in args.seeds for method in args.methods or METHODS]
    with tqdm(total=len(runs) + 1, unit="run") as bar:
        bar.set_description("linear probe of the teacher")
        teacher_probe(data, results, teacher)
        bar.update()
        for method, seed in runs:
            bar.set_description(f"{method}, seed {seed}")
            classify(data, results, teacher, method, seed, args.size, budget)
            bar.update()


if __name__ == "__main__":
    sys.exit(main())
