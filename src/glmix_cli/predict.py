import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .inputs import (
    add_view_argument,
    check_device,
    class_probabilities,
    find_images,
    label_names,
    load_classifier,
    open_image,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from PIL.Image import Image
    from torch import Tensor

    from glmix import GLNet

HELP = "Classify images, given as files or as folders of them."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "images", nargs="+", type=Path, metavar="IMAGE", help="an image, or a folder searched for images"
    )
    parser.add_argument("--model", required=True, help="a model's name (see `glmix models`), or local-dir:FOLDER")
    parser.add_argument("--checkpoint", type=Path, help="its weights: an authors' .pth, a state dict or safetensors")
    add_view_argument(parser, default="crop")
    parser.add_argument("--topk", type=int, default=5, help="how many classes to print (default: 5)")
    parser.add_argument("--batch-size", type=int, default=16, help="images to classify at once (default: 16)")
    parser.add_argument("--device", default="cpu", help="where to compute, such as cpu or cuda (default: cpu)")
    parser.add_argument("--json", action="store_true", help="print JSON for programs")


def run(args: argparse.Namespace) -> int:
    from tqdm import tqdm

    from glmix.errors import InputError

    if args.topk < 1 or args.batch_size < 1:
        raise InputError(f"--topk and --batch-size must be 1 or more, got {args.topk} and {args.batch_size}.")
    check_device(args.device)
    model = load_classifier(args.model, args.checkpoint).to(args.device).eval()
    mode = "L" if model.in_chans == 1 else "RGB"
    labels = label_names(model)

    results: list[dict[str, Any]] = []
    errors: list[dict[str, str]] = []
    files = list(find_images(args.images, errors))
    bar = tqdm(total=len(files), unit="image", disable=None)
    for start in range(0, len(files), args.batch_size):
        batch = []
        for file in files[start : start + args.batch_size]:
            try:
                batch.append((file, _input(open_image(file, mode, upright=True), model, args.view)))
            except (OSError, ValueError, SyntaxError) as error:  # what Pillow raises for what is no image
                errors.append({"file": str(file), "error": str(error)})
            bar.update()
        if not batch:
            continue
        logits = _logits(model, [image for _, image in batch], args.device)
        probabilities, classes = class_probabilities(model, logits).topk(min(args.topk, logits.shape[1]))
        for (file, image), ps, cs in zip(batch, probabilities.tolist(), classes.tolist(), strict=True):
            predictions = [{"class": c, "label": labels(c), "probability": p} for c, p in zip(cs, ps, strict=True)]
            size = {"width": image.shape[2], "height": image.shape[1]}
            results.append({"file": str(file), "view": args.view, "size": size, "predictions": predictions})
    bar.close()

    if args.json:
        print(json.dumps({"results": results, "errors": errors}, indent=2))
    else:
        for result in results:
            print(f"{result['file']}  ({_view(result)})")
            for prediction in result["predictions"]:
                print(f"  {prediction['probability']:7.2%}  {prediction['label']}")
    for failure in errors:
        print(f"glmix predict: {failure['file']}: {failure['error']}", file=sys.stderr)
    if not results:
        return 2
    return 1 if errors else 0


def _input(image: "Image", model: "GLNet", view: str) -> "Tensor":
    """What the model sees of an image in a view, (C, H, W)."""
    from glmix.data.views import model_input, whole_size

    return model_input(image, model, whole_size(image, model) if view == "whole" else None)


def _logits(model: "GLNet", images: "Sequence[Tensor]", device: str) -> "Tensor":
    """Logits (B, K) of images (C, H, W); those of one size go through the model together."""
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
    from glmix.data.views import describe_view

    return describe_view(result["view"], (result["size"]["height"], result["size"]["width"]))
