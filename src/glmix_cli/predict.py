"""`glmix predict`: classify images."""

import argparse
import json
from typing import TYPE_CHECKING, Any

from .images import ImageLoop, add_image_arguments, check_enlarged
from .inputs import (
    add_model_arguments,
    add_view_argument,
    check_device,
    load_classifier,
)
from .printing import printable

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from torch import Tensor

    from glmix import GLNet

HELP = "Classify images, given as files or folders."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_image_arguments(parser)
    add_model_arguments(parser)
    add_view_argument(parser, default="crop")
    parser.add_argument("--topk", type=int, default=5, help="number of classes to print per image (default: 5)")
    parser.add_argument("--batch-size", type=int, default=16, help="images per batch (default: 16)")
    parser.add_argument("--device", default="cpu", help="torch device, such as cpu or cuda (default: cpu)")
    parser.add_argument("--json", action="store_true", help="print the results as JSON")


def run(args: argparse.Namespace) -> int:
    from glmix.data.classification.views import class_probabilities, label_names, shorter_side
    from glmix.errors import InputError

    if args.topk < 1 or args.batch_size < 1:
        raise InputError(f"--topk and --batch-size must be 1 or more, got {args.topk} and {args.batch_size}.")
    check_device(args.device)
    model = load_classifier(args.model, args.checkpoint).to(args.device).eval()
    shorter = shorter_side(model, args.view)
    labels = label_names(model)

    images = ImageLoop("predict", args.images, args.max_pixels, arrays=model.in_chans != 3)
    results: list[dict[str, Any]] = []
    try:
        for files in images.batches(args.batch_size):
            batch = []
            for file in files:
                with images.attempt(file):
                    batch.append((file, _input(images, file, model, args.view, shorter)))
            if not batch:
                continue
            with images.attempt(*(file for file, _ in batch)):
                logits = _logits(model, [image for _, image in batch], args.device)
                probabilities, classes = class_probabilities(model, logits).topk(min(args.topk, logits.shape[1]))
                present = _present(model, logits)
                for (file, pixels), ps, cs, own in zip(
                    batch, probabilities.tolist(), classes.tolist(), present, strict=True
                ):
                    predictions = [
                        {"class": c, "label": labels(c), "probability": p} for c, p in zip(cs, ps, strict=True)
                    ]
                    size = {"width": pixels.shape[2], "height": pixels.shape[1]}
                    result = {"file": str(file), "view": args.view, "size": size, "predictions": predictions}
                    if model.multi_label:
                        result |= {"threshold": model.threshold, "labels": [labels(c) for c in own]}
                    results.append(result)
    finally:  # print the finished results even after a bug or an interruption
        if args.json:
            print(json.dumps({"results": results, "errors": images.errors}, indent=2))
        else:
            _print(results)
        images.print_errors()
    return images.exit_code(len(results))


def _print(results: list[dict[str, Any]]) -> None:
    for result in results:
        print(f"{printable(result['file'])}  ({_view(result)})")
        for prediction in result["predictions"]:
            print(f"  {prediction['probability']:7.2%}  {printable(prediction['label'])}")
        if "labels" in result:
            names = ", ".join(map(printable, result["labels"])) or "none"
            print(f"  labels with at least {result['threshold']:.2%}: {names}")


def _input(images: ImageLoop, file: "Path", model: "GLNet", view: str, shorter: int) -> "Tensor":
    """Return the model input (C, H, W) for an image file and a view."""
    from glmix.data.classification.views import array_model_input, model_input, whole_size
    from glmix.data.core.arrays import needs_array, read_array

    if needs_array(file, model.in_chans):
        array = read_array(file, model.in_chans, images.max_pixels)
        size = array.shape[1], array.shape[0]
        check_enlarged(size, shorter, images.max_pixels, "--max-pixels")
        return array_model_input(array, model, whole_size(size, model) if view == "whole" else None)
    image = images.open(file, "L" if model.in_chans == 1 else "RGB", at_least=shorter)
    check_enlarged(image.size, shorter, images.max_pixels, "--max-pixels")
    return model_input(image, model, whole_size(image, model) if view == "whole" else None)


def _present(model: "GLNet", logits: "Tensor") -> list[list[int]]:
    """Return the classes of each image whose probability is at least the threshold of the model."""
    return [(row >= model.threshold).nonzero().flatten().tolist() for row in logits.float().sigmoid()]


def _logits(model: "GLNet", images: "Sequence[Tensor]", device: str) -> "Tensor":
    """Return the logits (B, K) of images (C, H, W); images of equal size share a forward pass."""
    import torch

    places: dict[torch.Size, list[int]] = {}
    for place, image in enumerate(images):
        places.setdefault(image.shape, []).append(place)
    found: dict[int, Tensor] = {}
    with torch.inference_mode():
        for chosen in places.values():
            logits = model(torch.stack([images[place] for place in chosen]).to(device)).float()
            found.update(zip(chosen, logits, strict=True))
    return torch.stack([found[place] for place in range(len(images))])


def _view(result: dict[str, Any]) -> str:
    from glmix.data.classification.views import describe_view

    return describe_view(result["view"], (result["size"]["height"], result["size"]["width"]))
