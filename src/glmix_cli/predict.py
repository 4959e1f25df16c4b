import argparse
import json
import math
from typing import Any

from .images import ImageLoop, add_image_arguments, check_enlarged
from .inputs import add_model_arguments, check_device, label_names, load_classifier
from .printing import printable

HELP = "Classify images, given as files or as folders of them."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_image_arguments(parser)
    add_model_arguments(parser)
    parser.add_argument("--topk", type=int, default=5, help="how many classes to print (default: 5)")
    parser.add_argument("--batch-size", type=int, default=16, help="images to classify at once (default: 16)")
    parser.add_argument("--device", default="cpu", help="where to compute, such as cpu or cuda (default: cpu)")
    parser.add_argument("--json", action="store_true", help="print JSON for programs")


def run(args: argparse.Namespace) -> int:
    import timm
    import torch

    from glmix.errors import InputError

    if args.topk < 1 or args.batch_size < 1:
        raise InputError(f"--topk and --batch-size must be 1 or more, got {args.topk} and {args.batch_size}.")
    check_device(args.device)
    model = load_classifier(args.model, args.checkpoint).to(args.device).eval()
    config = timm.data.resolve_model_data_config(model)
    transform = timm.data.create_transform(**config, is_training=False)
    mode = "L" if config["input_size"][0] == 1 else "RGB"
    shorter = math.ceil(max(config["input_size"][1:]) / config["crop_pct"])
    labels = label_names(model)

    images = ImageLoop("predict", args.images, args.max_pixels)
    results: list[dict[str, Any]] = []
    try:
        for files in images.batches(args.batch_size):
            batch = []
            for file in files:
                with images.attempt(file):
                    image = images.open(file, mode, upright=False, at_least=shorter)
                    check_enlarged(image.size, shorter, args.max_pixels, "--max-pixels")
                    batch.append((file, transform(image)))
            if not batch:
                continue
            with images.attempt(*(file for file, _ in batch)), torch.inference_mode():
                logits = model(torch.stack([image for _, image in batch]).to(args.device)).float()
                shares = logits.sigmoid() if model.multi_label else logits.softmax(1)
                probabilities, classes = shares.topk(min(args.topk, shares.shape[1]))
                for (file, _), ps, cs in zip(batch, probabilities.tolist(), classes.tolist(), strict=True):
                    predictions = [
                        {"class": c, "label": labels(c), "probability": p} for c, p in zip(cs, ps, strict=True)
                    ]
                    results.append({"file": str(file), "predictions": predictions})
    finally:  # a bug or an interruption loses nothing of what was done
        if args.json:
            print(json.dumps({"results": results, "errors": images.errors}, indent=2))
        else:
            _print(results)
        images.print_errors()
    return images.exit_code(len(results))


def _print(results: list[dict[str, Any]]) -> None:
    for result in results:
        print(printable(result["file"]))
        for prediction in result["predictions"]:
            print(f"  {prediction['probability']:7.2%}  {printable(prediction['label'])}")
