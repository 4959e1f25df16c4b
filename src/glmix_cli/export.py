"""`glmix export`: export a model to ONNX, torch.export or OpenVINO and compare it with the original."""

import argparse
import dataclasses
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from .inputs import add_model_arguments, load_network
from .printing import printable

if TYPE_CHECKING:
    from torch import nn

    from glmix.deploy import Calibration, ExportReport

HELP = "Export a trained model to ONNX, torch.export (.pt2) or OpenVINO and check the file against the model."
SCENES = "scenes"
RUNNER = "onnx_model.py"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        f"{HELP} Classifiers, segmentation networks and detectors of `glmix fit` are supported. The file accepts any "
        "height and width, and any batch size (a detector: one image at a time, ONNX only). The check compares its "
        "outputs with those of the model at several image sizes; if they differ, no file is written."
    )
    parser.epilog = (
        "Example: glmix export --checkpoint runs/mine/checkpoints/best.ckpt --preprocess --runner -o model.onnx. "
        "See docs/deploy.md for how to run the file."
    )
    add_model_arguments(parser, untrained="use random weights, for speed measurements")
    parser.add_argument(
        "--format",
        choices=["onnx", "pt2", "openvino"],
        help="onnx for onnxruntime and most other runtimes, pt2 for PyTorch, openvino for OpenVINO (default: by the "
        "suffix of FILE)",
    )
    parser.add_argument(
        "--outputs",
        choices=["classes", "features", "slots"],
        default="classes",
        help="outputs of the file: those of the network (class logits, logits per pixel, or detections), the feature "
        "maps of the stages, or the slot assignment of each pixel in each block (default: classes)",
    )
    parser.add_argument(
        "--preprocess",
        nargs="?",
        choices=["uint8", "float"],
        const="uint8",
        help="include the normalisation in the file: its input is uint8 from 0 to 255 (batch, height, width, "
        "channels), or with 'float' float32 from 0 to 1 (batch, channels, height, width). Without this option the "
        "input is a normalised image, and that of a detector uint8. Resizing is included for detectors only",
    )
    parser.add_argument(
        "--int8", action="store_true", help="quantise to int8 (onnx and openvino only); needs --calibrate"
    )
    parser.add_argument(
        "--calibrate",
        metavar="FOLDER",
        help="images for --int8 that resemble the images in use: half of them calibrate the quantisation, the other "
        f"half evaluate it; '{SCENES}' for generated images",
    )
    parser.add_argument(
        "--calibrate-count",
        type=int,
        default=512,
        metavar="N",
        help="maximum number of images for --calibrate (default: 512)",
    )
    parser.add_argument(
        "--compile",
        action="store_true",
        help="with pt2: compile for processors like this one with AOTInductor, which takes minutes and needs a C++ "
        "compiler",
    )
    parser.add_argument(
        "-o", "--out", type=Path, required=True, metavar="FILE", help="output file: .onnx, .pt2 or .xml"
    )
    parser.add_argument(
        "--runner",
        action="store_true",
        help=f"with onnx: also write {RUNNER} beside FILE, a Python module that runs the file on photographs with "
        "onnxruntime, NumPy and Pillow, without PyTorch",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace existing files")
    parser.add_argument("--json", action="store_true", help="print the report as JSON")


def run(args: argparse.Namespace) -> int:
    from glmix.errors import InputError

    if args.int8 != (args.calibrate is not None):
        raise InputError("--int8 and --calibrate must be used together: int8 quantisation needs calibration images.")
    if args.calibrate_count < 2:
        raise InputError(f"--calibrate-count must be 2 or more, got {args.calibrate_count}.")
    from glmix.deploy import export_model, export_targets

    errors: list[dict[str, str]] = []
    export_targets(
        args.out, args.format, compiled=args.compile, int8=args.int8, runner=args.runner, overwrite=args.overwrite
    )
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
        runner=args.runner,
        overwrite=args.overwrite,
        log=lambda text: print(text, file=sys.stderr),
    )
    if args.json:
        contents = dataclasses.asdict(report) | {"files": [str(file) for file in report.files], "errors": errors}
        print(json.dumps(contents, indent=2))
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
            raise InputError(
                "No model was given: use --checkpoint, --model local-dir:FOLDER, or --model NAME with --untrained."
            )
        return load_network(args.model, args.checkpoint)
    if args.checkpoint is not None or args.model is None:
        raise InputError("--untrained needs --model NAME and cannot be combined with --checkpoint.")
    import glmix  # registers the models

    if args.model not in glmix.models.MODEL_NAMES:
        raise InputError(f"{args.model} is not a GLNet model; `glmix models` lists the names.")
    network: nn.Module = timm.create_model(args.model)
    return network


def _calibration(args: argparse.Namespace, model: "nn.Module", errors: list[dict[str, str]]) -> "Calibration":
    """Load the images of --calibrate."""
    from glmix.deploy import Calibration
    from glmix.errors import InputError

    if args.calibrate == SCENES and not Path(SCENES).is_dir():
        return Calibration.from_scenes(model, args.calibrate_count)
    folder = Path(args.calibrate)
    if not folder.is_dir():
        raise InputError(f"--calibrate takes a folder of images or '{SCENES}'; {folder} is not a folder.")

    def failed(file: Path, error: Exception) -> None:
        errors.append({"file": str(file), "error": str(error)})

    from glmix.inference import find_images

    return Calibration.from_files(model, list(find_images([folder], errors)), args.calibrate_count, failed)


def _lines(report: "ExportReport") -> list[str]:
    """Format the report as lines of text."""
    size = sum(file.stat().st_size for file in report.files) / 1e6
    images = {
        "none": "normalised images (batch, channels, height, width), float32",
        "float": "images from 0 to 1 (batch, channels, height, width), float32; normalisation included",
        "uint8": "images from 0 to 255 (batch, height, width, channels), uint8; normalisation included",
    }
    batch = "any batch size" if report.batch is None else "one image at a time"
    kind = "largest" if report.int8 is None else "mean"
    allowed = f" (tolerance {report.tolerance:.0e})" if report.int8 is None else " over all image sizes"
    lines = [
        f"{' and '.join(map(str, report.files))}: {size:.1f} MB, exported in {report.seconds:.0f} s",
        f"  input    {images[report.preprocess]}",
        f"           {batch}, height and width from {report.smallest} x {report.smallest} pixels",
        f"  outputs  {', '.join(report.outputs)}",
        f"  checked  {len(report.checks)} batches of different sizes compared with the model: {kind} error up to "
        f"{report.largest_error:.1e}{allowed}",
    ]
    if report.int8 is not None:
        agreement = report.int8.agreement
        same = "" if agreement is None else f"the same class as float32 on {agreement:.1%} of {report.int8.images}, "
        costs = report.int8.milliseconds
        lines.append(
            f"  int8     {same}mean error {report.int8.error:.1e}; {costs['int8']:.2f} ms per image, "
            f"float32 {costs['float32']:.2f} ms"
        )
    return lines
