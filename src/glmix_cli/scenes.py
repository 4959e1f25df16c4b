"""`glmix scenes`: write the procedural data set to disk, draw an overview, or print statistics."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from glmix.data.scenes import SceneConfig

HELP = "Write procedural images with exact labels (ImageFolder, ADE20K, Pascal VOC or COCO layout), or preview them."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("out", nargs="?", type=Path, metavar="OUT", help="output folder, new or empty")
    parser.add_argument(
        "--layout",
        choices=["imagefolder", "segmentation", "voc", "coco"],
        help="layout of OUT: ImageFolder classes, ADE20K masks, Pascal VOC masks or COCO objects",
    )
    parser.add_argument(
        "--sheet", type=Path, metavar="FILE", help="draw 24 scenes with their masks and write them as one PNG file"
    )
    parser.add_argument(
        "--report", action="store_true", help="print the rendering time per image and the accuracy of two baselines"
    )
    parser.add_argument(
        "--count-train", type=int, default=3000, metavar="N", help="number of training images (default: %(default)s)"
    )
    parser.add_argument(
        "--count-val", type=int, default=1000, metavar="N", help="number of validation images (default: %(default)s)"
    )
    appearance = parser.add_argument_group("appearance of the images")
    appearance.add_argument(
        "--size",
        type=int,
        default=64,
        metavar="N",
        help="image height and width in pixels, at least 16 (default: %(default)s)",
    )
    appearance.add_argument(
        "--seed", type=int, default=0, metavar="N", help="random seed of the images (default: %(default)s)"
    )
    appearance.add_argument(
        "--objects",
        type=int,
        nargs="+",
        metavar="N",
        help="number of objects per image, or minimum and maximum (default: 1 for imagefolder and --report, otherwise "
        "1 3)",
    )
    appearance.add_argument(
        "--shapes",
        nargs="+",
        default=["disc", "cross", "ring"],
        metavar="NAME",
        help="one or more of disc, cross, ring, square, triangle, crescent (default: disc cross ring)",
    )
    appearance.add_argument(
        "--textures",
        nargs="+",
        default=["stripes", "checks"],
        metavar="NAME",
        help="one or more of stripes, checks, dots, zigzag (default: stripes checks)",
    )
    appearance.add_argument(
        "--labelling",
        default="pair",
        choices=["pair", "latin"],
        help="class of an object: the pair of shape and texture, or (shape + texture) mod K, which neither shape nor "
        "texture alone predicts (default: %(default)s)",
    )
    appearance.add_argument(
        "--camouflage",
        type=float,
        default=0.5,
        metavar="P",
        help="probability that an object has the colours of the background (default: %(default)s)",
    )
    appearance.add_argument(
        "--noise",
        type=float,
        default=0.03,
        metavar="X",
        help="standard deviation of the pixel noise, for pixel values from 0 to 1 (default: %(default)s)",
    )


def run(args: argparse.Namespace) -> int:
    from glmix.errors import InputError

    if args.out is None and args.sheet is None and not args.report:
        raise InputError("Nothing to do: give OUT with --layout, --sheet FILE or --report.")
    if (args.out is None) != (args.layout is None):
        raise InputError("OUT and --layout must be given together.")
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
    print(f"{args.out}: {args.count_train} training and {args.count_val} validation images, layout {args.layout}")


def _measure(config: "SceneConfig", count_train: int, count_val: int) -> None:
    import time

    from tqdm import tqdm

    from glmix.data.scenes import baseline_accuracies, draw_scene
    from glmix.errors import InputError

    if not config.single:
        raise InputError(
            f"--report needs images with exactly one object (--objects 1), got --objects {config.objects}."
        )
    if count_train < 1 or count_val < 1:
        raise InputError(f"--count-train and --count-val must be at least 1, got {count_train} and {count_val}.")
    start = time.perf_counter()
    train = [draw_scene(config, "train", index) for index in tqdm(range(count_train), unit="scene", leave=False)]
    milliseconds = 1e3 * (time.perf_counter() - start) / count_train
    val = [draw_scene(config, "val", index) for index in range(count_val)]
    print(f"{milliseconds:.2f} ms per image of {config.size} x {config.size} pixels")
    print(f"{config.num_classes} classes; accuracy on {count_val} images, fitted on {count_train}:")
    print(f"  {'chance':18s} {1 / config.num_classes:6.1%}")
    for name, accuracy in baseline_accuracies(train, val).items():
        print(f"  {name:18s} {accuracy:6.1%}")
