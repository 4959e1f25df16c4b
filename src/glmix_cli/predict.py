import argparse
import json
import sys
from pathlib import Path
from typing import Any

from .inputs import add_model_arguments, check_device, find_images, label_names, load_classifier, open_image

HELP = "Classify images, given as files or as folders of them."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "images", nargs="+", type=Path, metavar="IMAGE", help="an image, or a folder searched for images"
    )
    add_model_arguments(parser)
    parser.add_argument("--topk", type=int, default=5, help="how many classes to print (default: 5)")
    parser.add_argument("--batch-size", type=int, default=16, help="images to classify at once (default: 16)")
    parser.add_argument("--device", default="cpu", help="where to compute, such as cpu or cuda (default: cpu)")
    parser.add_argument("--json", action="store_true", help="print JSON for programs")


def run(args: argparse.Namespace) -> int:
    import timm
    import torch
    from tqdm import tqdm

    from glmix.errors import InputError

    if args.topk < 1 or args.batch_size < 1:
        raise InputError(f"--topk and --batch-size must be 1 or more, got {args.topk} and {args.batch_size}.")
    check_device(args.device)
    model = load_classifier(args.model, args.checkpoint).to(args.device).eval()
    config = timm.data.resolve_model_data_config(model)
    transform = timm.data.create_transform(**config, is_training=False)
    mode = "L" if config["input_size"][0] == 1 else "RGB"
    labels = label_names(model)

    results: list[dict[str, Any]] = []
    errors: list[dict[str, str]] = []
    files = list(find_images(args.images, errors))
    bar = tqdm(total=len(files), unit="image", disable=None)
    for start in range(0, len(files), args.batch_size):
        batch = []
        for file in files[start : start + args.batch_size]:
            try:
                batch.append((file, transform(open_image(file, mode))))
            except (OSError, ValueError, SyntaxError) as error:  # what Pillow raises for what is no image
                errors.append({"file": str(file), "error": str(error)})
            bar.update()
        if not batch:
            continue
        with torch.inference_mode():
            logits = model(torch.stack([image for _, image in batch]).to(args.device)).float()
        shares = logits.sigmoid() if model.multi_label else logits.softmax(1)
        probabilities, classes = shares.topk(min(args.topk, shares.shape[1]))
        for (file, _), ps, cs in zip(batch, probabilities.tolist(), classes.tolist(), strict=True):
            predictions = [{"class": c, "label": labels(c), "probability": p} for c, p in zip(cs, ps, strict=True)]
            results.append({"file": str(file), "predictions": predictions})
    bar.close()

    if args.json:
        print(json.dumps({"results": results, "errors": errors}, indent=2))
    else:
        for result in results:
            print(result["file"])
            for prediction in result["predictions"]:
                print(f"  {prediction['probability']:7.2%}  {prediction['label']}")
    for failure in errors:
        print(f"glmix predict: {failure['file']}: {failure['error']}", file=sys.stderr)
    if not results:
        return 2
    return 1 if errors else 0
