"""`glmix export`: a model as a file for other programs, checked before it is there."""

import argparse
import dataclasses
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .inputs import add_model_arguments, find_images, load_classifier, load_network, open_image
from .printing import printable

if TYPE_CHECKING:
    from torch import Tensor, nn

    from glmix.deploy import Calibration, ExportReport

HELP = "Write a model as a file that other programs run: ONNX, torch.export or OpenVINO, checked against the model."
SCENES = "scenes"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        f"{HELP} The file takes any number of images of any size: it is run beside the model at five sizes and two "
        "batches, and one that differs is not kept."
    )
    parser.epilog = (
        "Example: glmix export --model local-dir:out/demo/model --preprocess -o demo.onnx. "
        "docs/deploy.md shows how to run the file."
    )
    add_model_arguments(parser, untrained="random weights, to measure what the model costs")
    parser.add_argument(
        "--format",
        choices=["onnx", "pt2", "openvino"],
        help="onnx for onnxruntime and most others, pt2 for PyTorch, openvino for OpenVINO (default: as FILE is named)",
    )
    parser.add_argument(
        "--outputs",
        choices=["classes", "features", "slots"],
        default="classes",
        help="what comes out: logits of the classes, the feature maps of the stages, or to which slots each pixel of "
        "each block belongs (default: classes)",
    )
    parser.add_argument(
        "--preprocess",
        nargs="?",
        choices=["uint8", "float"],
        const="uint8",
        default="none",
        help="normalise inside, so that the file takes bytes (batch, height, width, channels), or with 'float' numbers "
        "from 0 to 1 (batch, channels, height, width); without it the file takes normalised images. Resizing and "
        "cropping stay outside",
    )
    parser.add_argument(
        "--int8", action="store_true", help="compute in 8-bit integers, with --calibrate; for onnx and openvino"
    )
    parser.add_argument(
        "--calibrate",
        metavar="FOLDER",
        help="images like those that the file will see, for --int8: half of them set its ranges, half judge it; "
        f"'{SCENES}' for generated ones",
    )
    parser.add_argument(
        "--calibrate-count", type=int, default=512, metavar="N", help="use at most so many images (default: 512)"
    )
    parser.add_argument(
        "--compile",
        action="store_true",
        help="with pt2: compile it for processors like this one, which takes minutes and a C++ compiler",
    )
    parser.add_argument("-o", "--out", type=Path, required=True, metavar="FILE", help=".onnx, .pt2 or .xml to write")
    parser.add_argument("--overwrite", action="store_true", help="replace FILE if it is there")
    parser.add_argument("--json", action="store_true", help="print JSON for programs")


def run(args: argparse.Namespace) -> int:
    from glmix.errors import InputError

    if args.int8 != (args.calibrate is not None):
        raise InputError("--int8 and --calibrate go together: int8 needs images to find its ranges with.")
    if args.calibrate_count < 2:
        raise InputError(f"--calibrate-count must be 2 or more, got {args.calibrate_count}.")
    from glmix.deploy import export_model, export_targets

    errors: list[dict[str, str]] = []
    export_targets(args.out, args.format, compiled=args.compile, int8=args.int8, overwrite=args.overwrite)
    model = _load(args)
    calibration = _calibration(args, model, errors) if args.int8 else None
    report = export_model(
        model,
        args.out,
        args.format,
        outputs=args.outputs,
        preprocess=args.preprocess,
        compiled=args.compile,
        calibration=calibration,
        overwrite=args.overwrite,
        say=lambda text: print(text, file=sys.stderr),
    )
    if args.json:
        told = dataclasses.asdict(report) | {"files": [str(file) for file in report.files], "errors": errors}
        print(json.dumps(told, indent=2))
    else:
        print("\n".join(_lines(report)))
    for failure in errors:
        print(printable(f"glmix export: {failure['file']}: {failure['error']}"), file=sys.stderr)
    return 1 if errors else 0


def _load(args: argparse.Namespace) -> "nn.Module":
    import timm

    from glmix.errors import InputError

    if not args.untrained:
        if args.model is None and args.checkpoint is None:
            raise InputError("give --checkpoint, --model local-dir:FOLDER, or --model NAME with --untrained.")
        load = load_classifier if args.outputs == "classes" else load_network
        return load(args.model, args.checkpoint)
    if args.checkpoint is not None or args.model is None:
        raise InputError("--untrained takes a --model and no --checkpoint.")
    import glmix  # registers the models

    if args.model not in glmix.models.MODEL_NAMES:
        raise InputError(f"{args.model} is no model of ours; `glmix models` lists them.")
    network: nn.Module = timm.create_model(args.model)
    return network


def _calibration(args: argparse.Namespace, model: "nn.Module", errors: list[dict[str, str]]) -> "Calibration":
    """Images at the model's own size, half to calibrate with and half to judge by."""
    import timm
    import torch

    from glmix.deploy import Calibration
    from glmix.errors import InputError

    config = timm.data.resolve_model_data_config(model)
    if args.calibrate == SCENES and not Path(SCENES).is_dir():
        images = _scenes(config, args.calibrate_count)
    else:
        images = _pictures(Path(args.calibrate), config, args.calibrate_count, errors)
    if len(images) < 2:
        raise InputError(f"--calibrate {args.calibrate}: at least 2 images are needed, found {len(images)}.")
    stacked = torch.stack(images)
    return Calibration(stacked[::2], stacked[1::2])


def _scenes(config: dict[str, Any], count: int) -> list["Tensor"]:
    from glmix.data.scenes import SceneConfig, SceneDataset
    from glmix.errors import InputError

    channels, height, width = config["input_size"]
    if channels != 3 or height != width:
        raise InputError(
            f"--calibrate {SCENES} needs a model of square RGB images, and this one takes images of {width} x {height} "
            f"pixels with {channels} channels."
        )
    scenes = SceneDataset(SceneConfig(size=height, objects=(1, 1)), "val", count)
    return [scenes[index][0] for index in range(count)]


def _pictures(folder: Path, config: dict[str, Any], count: int, errors: list[dict[str, str]]) -> list["Tensor"]:
    """Every n-th image of a folder, so that all its subfolders have some, resized and cropped for the model."""
    import timm
    from tqdm import tqdm

    from glmix.errors import InputError

    if not folder.is_dir():
        raise InputError(f"--calibrate takes a folder of images or '{SCENES}', and {folder} is neither.")
    transform = timm.data.create_transform(**config, is_training=False, normalize=False)
    mode = "L" if config["input_size"][0] == 1 else "RGB"
    files = list(find_images([folder], errors))
    chosen = files[:: max(1, -(-len(files) // count))]
    images = []
    for file in tqdm(chosen, unit="image", disable=None):
        try:
            images.append(transform(open_image(file, mode)))
        except (OSError, ValueError, SyntaxError) as error:  # what Pillow raises for what is no image
            errors.append({"file": str(file), "error": str(error)})
    return images


def _lines(report: "ExportReport") -> list[str]:
    """The report for people."""
    size = sum(file.stat().st_size for file in report.files) / 1e6
    images = {
        "none": "normalised images (batch, channels, height, width), float32",
        "float": "images from 0 to 1 (batch, channels, height, width), float32; normalised inside",
        "uint8": "images of bytes (batch, height, width, channels), uint8; normalised inside",
    }
    kind = "largest" if report.int8 is None else "mean"
    allowed = (
        f" of {report.tolerance:.0e} allowed" if report.int8 is None else ", other sizes than the model's included"
    )
    lines = [
        f"{' and '.join(map(str, report.files))}: {size:.1f} MB, made in {report.seconds:.0f} s",
        f"  takes    {images[report.preprocess]}",
        f"           any batch, height and width from {report.smallest} x {report.smallest} pixels on",
        f"  gives    {', '.join(report.outputs)}",
        f"  checked  {len(report.checks)} batches of other sizes beside the model: {kind} error up to "
        f"{report.largest_error:.1e}{allowed}",
    ]
    if report.int8 is not None:
        agreement = report.int8.agreement
        same = "" if agreement is None else f"the same class as float32 on {agreement:.1%} of {report.int8.images}, "
        costs = report.int8.milliseconds
        lines.append(
            f"  int8     {same}mean error {report.int8.error:.1e}; {costs['int8']:.2f} ms an image, float32 takes "
            f"{costs['float32']:.2f} ms"
        )
    return lines
