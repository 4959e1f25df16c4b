"""`glmix scenes`: write the embedded data set to disk, show it on a contact sheet, or measure it."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from glmix.data.scenes import SceneConfig

HELP = "Write procedural images with exact labels: ImageFolder, ADE20K, Pascal VOC or COCO; or show or measure them."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("out", nargs="?", type=Path, metavar="OUT", help="folder to write, new or empty")
    parser.add_argument("--layout", choices=["imagefolder", "segmentation", "voc", "coco"], help="how to write OUT")
    parser.add_argument("--sheet", type=Path, metavar="FILE", help="draw a contact sheet with masks, a PNG")
    parser.add_argument("--report", action="store_true", help="measure the time an image takes, and the two baselines")
    parser.add_argument("--count-train", type=int, default=3000, metavar="N", help="scenes to train on (%(default)s)")
    parser.add_argument("--count-val", type=int, default=1000, metavar="N", help="scenes to validate on (%(default)s)")
    look = parser.add_argument_group("what the scenes look like")
    look.add_argument("--size", type=int, default=64, metavar="N", help="pixels a side, from 16 (%(default)s)")
    look.add_argument("--seed", type=int, default=0, metavar="N", help="other scenes of the same kind (%(default)s)")
    look.add_argument(
        "--objects",
        type=int,
        nargs="+",
        metavar="N",
        help="objects in a scene: their number, or fewest and most (1 for imagefolder and the report, otherwise 1 3)",
    )
    look.add_argument(
        "--shapes",
        nargs="+",
        default=["disc", "cross", "ring"],
        metavar="NAME",
        help="from disc, cross, ring, square, triangle, crescent (the first three)",
    )
    look.add_argument(
        "--textures",
        nargs="+",
        default=["stripes", "checks"],
        metavar="NAME",
        help="from stripes, checks, dots, zigzag (the first two)",
    )
    look.add_argument(
        "--labelling",
        default="pair",
        choices=["pair", "latin"],
        help="class = the pair, or (shape + texture) mod K, of which either alone tells nothing (%(default)s)",
    )
    look.add_argument(
        "--camouflage",
        type=float,
        default=0.5,
        metavar="P",
        help="probability that an object wears the colours of the background (%(default)s)",
    )
    look.add_argument(
        "--noise", type=float, default=0.03, metavar="X", help="deviation of the pixel noise, 1 is white (%(default)s)"
    )


def run(args: argparse.Namespace) -> int:
    from glmix.errors import InputError

    if args.out is None and args.sheet is None and not args.report:
        raise InputError("nothing to do: give OUT with --layout, --sheet FILE or --report.")
    if (args.out is None) != (args.layout is None):
        raise InputError("OUT and --layout go together: the folder to write, and how.")
    config = _config(args)
    if args.sheet is not None:
        _draw_sheet(config, args.sheet)
    if args.out is not None:
        _write(config, args)
    if args.report:
        _measure(config, args.count_train, args.count_val)
    return 0


def _config(args: argparse.Namespace) -> "SceneConfig":
    from glmix.data.scenes import SceneConfig

    objects = args.objects
    if objects is None:
        objects = [1] if args.layout == "imagefolder" or args.report else [1, 3]
    return SceneConfig(
        size=args.size,
        shapes=tuple(args.shapes),
        textures=tuple(args.textures),
        labelling=args.labelling,
        objects=tuple(objects * 2 if len(objects) == 1 else objects),
        camouflage=args.camouflage,
        noise=args.noise,
        seed=args.seed,
    )


def _draw_sheet(config: "SceneConfig", path: Path) -> None:
    from glmix.data.scenes import contact_sheet, draw_scene

    columns = 8
    scenes = [draw_scene(config, "train", index) for index in range(3 * columns)]
    path.parent.mkdir(parents=True, exist_ok=True)
    contact_sheet(scenes, config, columns, scale=max(1, 128 // config.size)).save(path, format="PNG", optimize=True)
    print(f"{path}: {len(scenes)} scenes with their masks")


def _write(config: "SceneConfig", args: argparse.Namespace) -> None:
    from tqdm import tqdm

    from glmix.data.scenes import write_scenes

    total = args.count_train + args.count_val
    with tqdm(total=total, unit="scene", desc=args.layout) as bar:
        write_scenes(args.out, args.layout, config, {"train": args.count_train, "val": args.count_val}, bar.update)
    print(f"{args.out}: {args.count_train} scenes to train on, {args.count_val} to validate on, as {args.layout}")


def _measure(config: "SceneConfig", count_train: int, count_val: int) -> None:
    import time

    from tqdm import tqdm

    from glmix.data.scenes import baseline_accuracies, draw_scene
    from glmix.errors import InputError

    if not config.single:
        raise InputError(f"The baselines of --report need scenes of one object, --objects 1, got {config.objects}.")
    if count_train < 1 or count_val < 1:
        raise InputError(f"--count-train and --count-val must be at least 1, got {count_train} and {count_val}.")
    start = time.perf_counter()
    train = [draw_scene(config, "train", index) for index in tqdm(range(count_train), unit="scene", leave=False)]
    milliseconds = 1e3 * (time.perf_counter() - start) / count_train
    val = [draw_scene(config, "val", index) for index in range(count_val)]
    print(f"{milliseconds:.2f} ms a scene of {config.size} x {config.size} pixels")
    print(f"{config.num_classes} classes; accuracy on {count_val} scenes, fitted on {count_train}:")
    print(f"  {'chance':18s} {1 / config.num_classes:6.1%}")
    for name, accuracy in baseline_accuracies(train, val).items():
        print(f"  {name:18s} {accuracy:6.1%}")
