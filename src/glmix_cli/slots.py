"""`glmix slots score` and `glmix slots discover`: evaluate slots as segmentations, in comparison with controls."""

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

HELP = "Score the slots of a model as segmentations, or discover objects with them, and compare with controls."
SCORE = "Score the slots of each block as segmentations, and compare with controls of the same number of segments."
DISCOVER = "Discover objects without masks from the slots of a classifier, and compare with controls."
CONTROLS = ["untrained", "grid", "SLIC", "SLIC blurred", "k-means"]  # copy of the library's, which is slow to import
SMALLEST = 32  # pixels: the smallest shorter side that a model accepts


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
        help="side of a cut that is the object: the side that is not at the image border, or the side with the class "
        "evidence (default: border)",
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
    evaluate = _score if args.what == "score" else _discover
    with _truths(args, files, size, errors) as (truths, progress):
        contents, text, notes = evaluate(args, model, truths, progress, settings)
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
    """Check the arguments before anything is loaded, and create the output folder."""
    from glmix.errors import InputError

    if args.batch_size < 1 or (args.count is not None and args.count < 1):
        raise InputError(f"--batch-size and --count must be 1 or more, got {args.batch_size} and {args.count}.")
    if args.data == "scenes" and args.layout is not None:
        raise InputError("--layout is for folders, got --data scenes; use --data ./scenes for a folder named scenes.")
    if args.data != "scenes" and args.layout is None:
        raise InputError(f"--data {args.data} needs its --layout: ade20k, voc or folder.")
    if args.what == "discover" and args.layout == "ade20k":
        raise InputError(
            "ADE20K has no background class, which object discovery needs: use --data scenes or a folder in the layout "
            "voc."
        )
    if args.model is None and args.checkpoint is None:
        raise InputError("give --checkpoint, or --model local-dir:FOLDER.")
    existing = next((path for path in _targets(args) if path.exists()), None)
    if existing is not None and not args.overwrite:
        raise InputError(f"{existing} exists: choose another folder, or overwrite it with --overwrite.")
    args.out.mkdir(parents=True, exist_ok=True)
    if not os.access(args.out, os.W_OK | os.X_OK):
        raise PermissionError(f"{args.out} cannot be written to.")


def _load(args: argparse.Namespace) -> "GLNet":
    """Load the model, and check that it has slots and, for discovery, classes."""
    from glmix.errors import InputError
    from glmix.slots.figure import page  # noqa: F401 - report a missing extra before the model is loaded
    from glmix.slots.maps import blocks_with_slots

    check_device(args.device)
    model = load_classifier(args.model, args.checkpoint).eval()
    blocks_with_slots(model)
    if args.what == "discover" and model.num_classes == 0:
        raise InputError("object discovery needs a classifier, and this model has no classes.")
    return model.to(args.device)


def _open(args: argparse.Namespace) -> "MaskFiles":
    from glmix.data.segmentation.files import open_masks

    return open_masks(args.data, args.split, args.layout)


@contextmanager
def _truths(
    args: argparse.Namespace, files: "MaskFiles | None", size: int, errors: list[dict[str, str]]
) -> Iterator[tuple[Iterator["Truth"], Callable[[int], object]]]:
    """Yield the images with ground truth, and a function that updates the progress bar."""
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
    """Return the settings that the results record."""
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
    """Score the slots; return the JSON contents, the tables and the notes."""
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
        f"Means over {images} images{_where(settings)}. In each image, grid, SLIC and k-means have as many segments as "
        "the slots.",
        *([] if args.controls else ["There are no controls: interpret these scores with care."]),
        _about_objects(found.blocks, images),
    ]
    return as_json(found, settings), summary(found), "".join(f"{note}\n" for note in notes if note)


def _about_objects(blocks: list["BlockScores"], images: int) -> str:
    """Return a note about images without object instances, or an empty string."""
    import numpy as np

    known = int((~np.isnan(blocks[0].values["slots"]["mean_best_overlap"])).sum())
    if known == images:
        return ""
    without = "These data have" if known == 0 else f"{images - known} of {images} images have"
    return (
        f"{without} no object instances (SegmentationObject in the layout voc): slot-oracle instance IoU, mBO and "
        f"ARI of the foreground are {'left out' if known == 0 else 'means over the other images'}."
    )


def _discover(
    args: argparse.Namespace,
    model: "GLNet",
    truths: Iterator["Truth"],
    progress: Callable[[int], object],
    settings: dict[str, Any],
) -> tuple[dict[str, Any], str, str]:
    """Discover and score objects; return the JSON contents, the table and the notes."""
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
        f"In %, means over {len(found)} images{_where(settings)}. The last columns compare the cut and k-means with "
        "each control, one sign per score in the order of the columns: + better by more than the 95 % confidence "
        "interval of the paired difference, = level, - worse.",
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
    """Return a note if no image has object instances, otherwise None."""
    if any(one.truth.objects is not None for one in found):
        return None
    return (
        "These data have no object instances (SegmentationObject in the layout voc): mBO, CorLoc and ARI-FG are left "
        "out."
    )


def _where(settings: dict[str, Any]) -> str:
    """Describe the data set in brackets."""
    return f" ({settings['data']}, {settings['split']}, {settings['size']} pixels)"


def _target(args: argparse.Namespace, kind: str) -> Path:
    """Return the output file with a suffix."""
    out: Path = args.out
    return out / f"{'scores' if args.what == 'score' else 'discovery'}.{kind}"


def _targets(args: argparse.Namespace) -> list[Path]:
    """Return all output files."""
    joint = [args.out / "segments.png"] if args.what == "score" and args.segments else []
    return [*(_target(args, kind) for kind in ("md", "json", "png")), *joint]
