"""`glmix export`: export a model to ONNX, torch.export or OpenVINO and compare it with the original."""

import argparse
import dataclasses
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .inputs import add_model_arguments, load_classifier, load_network, open_image
from .printing import printable

if TYPE_CHECKING:
    from torch import Tensor, nn

    from glmix.deploy import Calibration, ExportReport

HELP = "Export a model to ONNX, torch.export (.pt2) or OpenVINO and check the file against the model."
SCENES = "scenes"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        f"{HELP} The file accepts any batch size, height and width. The check compares its outputs with those of the "
        "model at five image sizes and two batch sizes; if they differ, no file is written."
    )
    parser.epilog = (
        "Example: glmix export --model local-dir:out/demo/model --preprocess -o demo.onnx. "
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
        help="outputs of the file: class logits, the feature maps of the stages, or the slot assignment of each pixel "
        "in each block (default: classes)",
    )
    parser.add_argument(
        "--preprocess",
        nargs="?",
        choices=["uint8", "float"],
        const="uint8",
        default="none",
        help="include the normalisation in the file: its input is uint8 from 0 to 255 (batch, height, width, "
        "channels), or with 'float' float32 from 0 to 1 (batch, channels, height, width). Without this option the "
        "input is a normalised image. Resizing and cropping are never included",
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
    parser.add_argument("--overwrite", action="store_true", help="replace FILE if it exists")
    parser.add_argument("--json", action="store_true", help="print the report as JSON")


def run(args: argparse.Namespace) -> int:
    from glmix.errors import InputError

    if args.int8 != (args.calibrate is not None):
        raise InputError("--int8 and --calibrate must be used together: int8 quantisation needs calibration images.")
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
        load = load_classifier if args.outputs == "classes" else load_network
        return load(args.model, args.checkpoint)
    if args.checkpoint is not None or args.model is None:
        raise InputError("--untrained needs --model NAME and cannot be combined with --checkpoint.")
    import glmix  # registers the models

    if args.model not in glmix.models.MODEL_NAMES:
        raise InputError(f"{args.model} is not a GLNet model; `glmix models` lists the names.")
    network: nn.Module = timm.create_model(args.model)
    return network


def _calibration(args: argparse.Namespace, model: "nn.Module", errors: list[dict[str, str]]) -> "Calibration":
    """Load images at the model's input size, half for calibration and half for evaluation."""
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
        raise InputError(f"--calibrate {args.calibrate} needs at least 2 images, found {len(images)}.")
    stacked = torch.stack(images)
    return Calibration(stacked[::2], stacked[1::2])


def _scenes(config: dict[str, Any], count: int) -> list["Tensor"]:
    from glmix.data.scenes import SceneConfig, SceneDataset
    from glmix.errors import InputError

    channels, height, width = config["input_size"]
    if channels != 3 or height != width:
        raise InputError(
            f"--calibrate {SCENES} needs a model for square RGB images, but this model takes images of {width} x "
            f"{height} pixels with {channels} channels."
        )
    scenes = SceneDataset(SceneConfig(size=height, objects=(1, 1)), "val", count)
    return [scenes[index][0] for index in range(count)]


def _pictures(folder: Path, config: dict[str, Any], count: int, errors: list[dict[str, str]]) -> list["Tensor"]:
    """Load every n-th image of a folder, so that all subfolders contribute, resized and cropped for the model."""
    import timm
    from tqdm import tqdm

    from glmix.errors import InputError

    if not folder.is_dir():
        raise InputError(f"--calibrate takes a folder of images or '{SCENES}'; {folder} is not a folder.")
    transform = timm.data.create_transform(**config, is_training=False, normalize=False)
    mode = "L" if config["input_size"][0] == 1 else "RGB"
    from glmix.inference import find_images

    files = list(find_images([folder], errors))
    chosen = files[:: max(1, -(-len(files) // count))]
    images = []
    for file in tqdm(chosen, unit="image", disable=None):
        try:
            images.append(transform(open_image(file, mode)))
        except (OSError, ValueError, SyntaxError) as error:  # raised by Pillow for invalid images
            errors.append({"file": str(file), "error": str(error)})
    return images


def _lines(report: "ExportReport") -> list[str]:
    """Format the report as lines of text."""
    size = sum(file.stat().st_size for file in report.files) / 1e6
    images = {
        "none": "normalised images (batch, channels, height, width), float32",
        "float": "images from 0 to 1 (batch, channels, height, width), float32; normalisation included",
        "uint8": "images from 0 to 255 (batch, height, width, channels), uint8; normalisation included",
    }
    kind = "largest" if report.int8 is None else "mean"
    allowed = f" (tolerance {report.tolerance:.0e})" if report.int8 is None else " over all image sizes"
    lines = [
        f"{' and '.join(map(str, report.files))}: {size:.1f} MB, exported in {report.seconds:.0f} s",
        f"  input    {images[report.preprocess]}",
        f"           any batch size, height and width from {report.smallest} x {report.smallest} pixels",
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
