"""`glmix slots score` and `glmix slots discover`: slots in numbers, beside the controls that give numbers a meaning."""

import argparse
import json
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .inputs import add_model_arguments, check_device, load_classifier

if TYPE_CHECKING:
    from glmix import GLNet
    from glmix.data.segmentation.files import MaskFiles
    from glmix.slots.grouping.discovery import Discovered
    from glmix.slots.grouping.scoring import BlockScores
    from glmix.slots.grouping.truth import Truth

HELP = "Measure how a model's slots group pixels, or find objects with them, beside controls."
SCORE = "Score how the slots of each block group pixels, beside controls with as many segments."
DISCOVER = "Find objects without masks by the slots of a classifier, and score them beside controls."
CONTROLS = ["untrained", "grid", "SLIC", "SLIC blurred", "k-means"]  # as in the library, which help does not import
SMALLEST = 32  # pixels: the shorter side that a model takes at least


def add_arguments(parser: argparse.ArgumentParser) -> None:
    what = parser.add_subparsers(dest="what", metavar="score|discover", required=True)
    score = what.add_parser("score", help=SCORE, description=SCORE)
    discover = what.add_parser("discover", help=DISCOVER, description=DISCOVER)
    for command, name in ((score, "scores"), (discover, "discovery")):
        command.add_argument(
            "--data", required=True, metavar="scenes|ROOT", help="generated scenes, or a folder of images with masks"
        )
        command.add_argument("--layout", choices=["ade20k", "voc", "folder"], help="how ROOT is laid out")
        command.add_argument("--split", default="val", help="train, val, test or a list of VOC (default: val)")
        add_model_arguments(command)
        command.add_argument(
            "-o", "--out", type=Path, required=True, metavar="OUT", help=f"folder for {name}.md, .json, .png"
        )
        command.add_argument("--overwrite", action="store_true", help="replace results that are there already")
        command.add_argument("--count", type=int, metavar="N", help="images (default: 200 scenes, or all of ROOT)")
        command.add_argument(
            "--size", type=int, metavar="N", help="the images' shorter side in pixels (default: the model's)"
        )
        command.add_argument(
            "--objects", type=int, nargs="+", default=[1, 3], metavar="N", help="in a scene: number, or fewest and most"
        )
        command.add_argument(
            "--blocks",
            type=int,
            nargs="+",
            metavar="N",
            help="in order of execution from 0, negative from the end (all)",
        )
        command.add_argument("--seed", type=int, default=0, metavar="N", help="of the controls (default: 0)")
        command.add_argument("--batch-size", type=int, default=16, metavar="N", help="images at once (default: 16)")
        command.add_argument("--device", default="cpu", help="where to compute, such as cpu or cuda (default: cpu)")
        command.add_argument("--json", action="store_true", help="print JSON for programs")
    score.add_argument(
        "--segments",
        type=int,
        nargs="*",
        default=[4, 8, 16],
        metavar="N",
        help="how many all blocks together are parted into (default: 4 8 16)",
    )
    score.add_argument(
        "--controls",
        nargs="*",
        default=CONTROLS,
        choices=CONTROLS,
        help="what to compare with (default: all)",
    )
    discover.add_argument("--clusters", type=int, default=4, metavar="N", help="of k-means (default: 4)")
    discover.add_argument(
        "--sign",
        choices=["border", "classes"],
        default="border",
        help="which side of a cut is the object: what the image's border is not, or where classes have their evidence",
    )


def run(args: argparse.Namespace) -> int:
    from glmix.errors import InputError

    _check(args)
    from glmix.files import write_atomically

    model = _load(args)
    errors: list[dict[str, str]] = []
    files = None if args.data == "scenes" else _open(args)
    size = args.size or min(model.pretrained_cfg["input_size"][1:])
    if size < SMALLEST:
        raise InputError(f"--size must be at least {SMALLEST} pixels, got {size}.")
    settings = _settings(args, model, size)
    say = _score if args.what == "score" else _discover
    with _truths(args, files, size, errors) as (truths, progress):
        contents, text, notes = say(args, model, truths, progress, settings)
    contents["errors"] = errors
    write_atomically(_target(args, "json"), json.dumps(contents, indent=2) + "\n")
    write_atomically(_target(args, "md"), f"{text}\n{notes}")
    if args.json:
        print(json.dumps(contents, indent=2))
    else:
        written = ", ".join(path.name for path in _targets(args))
        print(f"{text}\n{notes}\nWritten to {args.out}: {written}.")
    return 1 if errors else 0


def _check(args: argparse.Namespace) -> None:
    """What can be found wrong before anything is loaded."""
    from glmix.errors import InputError

    if args.batch_size < 1 or (args.count is not None and args.count < 1):
        raise InputError(f"--batch-size and --count must be 1 or more, got {args.batch_size} and {args.count}.")
    if args.data == "scenes" and args.layout is not None:
        raise InputError("--layout is for a folder; the folder ./scenes is meant by --data ./scenes.")
    if args.data != "scenes" and args.layout is None:
        raise InputError(f"--data {args.data} needs its --layout: ade20k, voc or folder.")
    if args.what == "discover" and args.layout == "ade20k":
        raise InputError(
            "ADE20K names stuff and things alike and has no background, from which objects could be told: "
            "take --data scenes or a folder in the layout voc."
        )
    if args.model is None and args.checkpoint is None:
        raise InputError("give --checkpoint, or --model local-dir:FOLDER.")
    there = next((path for path in _targets(args) if path.exists()), None)
    if there is not None and not args.overwrite:
        raise InputError(f"{there} is there already: choose another folder, or replace it with --overwrite.")
    args.out.mkdir(parents=True, exist_ok=True)
    if not os.access(args.out, os.W_OK | os.X_OK):
        raise PermissionError(f"{args.out} cannot be written to.")


def _load(args: argparse.Namespace) -> "GLNet":
    from glmix.errors import InputError
    from glmix.slots.figure import page  # noqa: F401 - a missing extra is told before anything is computed
    from glmix.slots.maps import blocks_with_slots

    check_device(args.device)
    model = load_classifier(args.model, args.checkpoint).eval()
    blocks_with_slots(model)
    if args.what == "discover" and model.num_classes == 0:
        raise InputError("discovery needs a classifier, and this model has no classes.")
    return model.to(args.device)


def _open(args: argparse.Namespace) -> "MaskFiles":
    from glmix.data.segmentation.files import open_masks

    return open_masks(args.data, args.split, args.layout)


@contextmanager
def _truths(
    args: argparse.Namespace, files: "MaskFiles | None", size: int, errors: list[dict[str, str]]
) -> Iterator[tuple[Iterator["Truth"], Callable[[int], object]]]:
    """The images, and what is to be called as they are done: a bar on a terminal."""
    from tqdm import tqdm

    from glmix.slots.grouping.truth import scene_truths, truths_on_disk

    def failed(name: str, error: Exception) -> None:
        errors.append({"image": name, "error": str(error)})
        bar.write(f"glmix slots {args.what}: {name}: {error}", file=sys.stderr)
        bar.update()

    total = (args.count or 200) if files is None else min(args.count or len(files), len(files))
    with tqdm(total=total, unit="image", disable=None) as bar:
        if files is None:
            config = _scenes(args, size)
            yield scene_truths(config, args.split, total), bar.update
        else:
            yield truths_on_disk(files, size, args.count, failed), bar.update


def _scenes(args: argparse.Namespace, size: int) -> Any:
    from glmix.data.scenes import SceneConfig

    return SceneConfig(size=size, objects=tuple(args.objects * 2 if len(args.objects) == 1 else args.objects))


def _settings(args: argparse.Namespace, model: "GLNet", size: int) -> dict[str, Any]:
    settings = {
        "data": args.data,
        "layout": args.layout,
        "split": args.split,
        "size": size,
        "model": model.pretrained_cfg.get("architecture"),
        "checkpoint": str(args.checkpoint or args.model),
        "blocks": args.blocks,
        "seed": args.seed,
    }
    if args.data == "scenes":
        settings["objects"] = args.objects
    return settings | ({"clusters": args.clusters, "sign": args.sign} if args.what == "discover" else {})


def _score(
    args: argparse.Namespace,
    model: "GLNet",
    truths: Iterator["Truth"],
    progress: Callable[[int], object],
    settings: dict[str, Any],
) -> tuple[dict[str, Any], str, str]:
    from glmix.slots.figure.page import save_figure
    from glmix.slots.grouping.report import as_json, score_plot, summary
    from glmix.slots.grouping.scoring import score_slots

    found = score_slots(
        model,
        truths,
        blocks=args.blocks,
        segments=args.segments,
        controls=args.controls,
        seed=args.seed,
        batch_size=args.batch_size,
        progress=progress,
    )
    images = len(found.blocks[0].values["slots"]["segments"])
    title = f"Slots of {settings['model']}, {images} images"
    save_figure(score_plot(found.blocks, f"{title}: each block"), _target(args, "png"))
    if found.joint:
        save_figure(score_plot(found.joint, f"{title}: all blocks together"), args.out / "segments.png")
    notes = [
        f"Means over {images} images{_where(settings)}. In each, grid, SLIC and k-means have as many segments as slots "
        "have.",
        *([] if args.controls else ["There are no controls: these numbers alone say little."]),
        _about_objects(found.blocks, images),
    ]
    return as_json(found, settings), summary(found), "".join(f"{note}\n" for note in notes if note)


def _about_objects(blocks: list["BlockScores"], images: int) -> str:
    """What has to be said where objects are not known."""
    import numpy as np

    known = int((~np.isnan(blocks[0].values["slots"]["mean_best_overlap"])).sum())
    if known == images:
        return ""
    where = "These data do" if known == 0 else f"{images - known} of {images} images do"
    return (
        f"{where} not tell objects apart (in VOC's layout SegmentationObject does): slot-oracle instance IoU, mBO and "
        f"ARI of the foreground are {'left out' if known == 0 else 'those of the others'}."
    )


def _discover(
    args: argparse.Namespace,
    model: "GLNet",
    truths: Iterator["Truth"],
    progress: Callable[[int], object],
    settings: dict[str, Any],
) -> tuple[dict[str, Any], str, str]:
    from glmix.slots.figure.page import save_figure
    from glmix.slots.grouping.discovery import CONTROLS, METHODS, discover
    from glmix.slots.grouping.discovery_report import discovery_json, discovery_sheet, discovery_table, grid_warning

    found = discover(
        model,
        truths,
        blocks=args.blocks,
        clusters=args.clusters,
        sign=args.sign,
        seed=args.seed,
        batch_size=args.batch_size,
        progress=progress,
    )
    title = f"Objects found without masks by the slots of {settings['model']}"
    save_figure(discovery_sheet(found, title), _target(args, "png"))
    notes = [
        f"In %, means over {len(found)} images{_where(settings)}. Behind a control: how the cut and k-means stand to "
        "it, a sign for each score in their order, + better beyond the 95 % interval of the difference within an "
        "image, = level, - worse.",
        grid_warning(found),
        _without_objects(found),
        "",
        *(f"{name}: {what}." for name, what in {**METHODS, **CONTROLS}.items()),
    ]
    return (
        discovery_json(found, settings),
        discovery_table(found),
        "".join(f"{note}\n" for note in notes if note is not None),
    )


def _without_objects(found: list["Discovered"]) -> str | None:
    if any(one.truth.objects is not None for one in found):
        return None
    return (
        "These data do not tell objects apart (in VOC's layout SegmentationObject does): mBO, CorLoc and ARI-FG are "
        "left out."
    )


def _where(settings: dict[str, Any]) -> str:
    return f" ({settings['data']}, {settings['split']}, {settings['size']} pixels)"


def _target(args: argparse.Namespace, kind: str) -> Path:
    out: Path = args.out
    return out / f"{'scores' if args.what == 'score' else 'discovery'}.{kind}"


def _targets(args: argparse.Namespace) -> list[Path]:
    """All that is written."""
    joint = [args.out / "segments.png"] if args.what == "score" and args.segments else []
    return [*(_target(args, kind) for kind in ("md", "json", "png")), *joint]
