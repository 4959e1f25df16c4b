import argparse
import json
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from PIL.Image import Image

    from glmix import GLNet

HELP = "Classify images, given as files or as folders of them."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "images", nargs="+", type=Path, metavar="IMAGE", help="an image, or a folder searched for images"
    )
    parser.add_argument("--model", required=True, help="a model's name (see `glmix models`), or local-dir:FOLDER")
    parser.add_argument("--checkpoint", type=Path, help="its weights: an authors' .pth, a state dict or safetensors")
    parser.add_argument("--topk", type=int, default=5, help="how many classes to print (default: 5)")
    parser.add_argument("--batch-size", type=int, default=16, help="images to classify at once (default: 16)")
    parser.add_argument("--device", default="cpu", help="where to compute, such as cpu or cuda (default: cpu)")
    parser.add_argument("--json", action="store_true", help="print JSON for programs")


def run(args: argparse.Namespace) -> int:
    import timm
    import torch
    from tqdm import tqdm

    if args.topk < 1 or args.batch_size < 1:
        raise ValueError(f"--topk and --batch-size must be 1 or more, got {args.topk} and {args.batch_size}.")
    model = _load_model(args.model, args.checkpoint).to(args.device).eval()
    config = timm.data.resolve_model_data_config(model)
    transform = timm.data.create_transform(**config, is_training=False)
    mode = "L" if config["input_size"][0] == 1 else "RGB"
    labels = _label_names(model)

    results: list[dict[str, Any]] = []
    errors: list[dict[str, str]] = []
    files = list(_find_images(args.images, errors))
    bar = tqdm(total=len(files), unit="image", disable=None)
    for start in range(0, len(files), args.batch_size):
        batch = []
        for file in files[start : start + args.batch_size]:
            try:
                batch.append((file, transform(_open(file, mode))))
            except (OSError, ValueError, SyntaxError) as error:  # what Pillow raises for what is no image
                errors.append({"file": str(file), "error": str(error)})
            bar.update()
        if not batch:
            continue
        with torch.inference_mode():
            logits = model(torch.stack([image for _, image in batch]).to(args.device)).float()
        probabilities, classes = logits.softmax(1).topk(min(args.topk, logits.shape[1]))
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


def _load_model(name: str, checkpoint: Path | None) -> "GLNet":
    import timm

    import glmix

    if checkpoint is not None:
        return glmix.load_official(checkpoint, name)
    if not name.startswith("local-dir:"):
        raise ValueError(f"{name} has no weights of its own to predict with: give them with --checkpoint.")
    model: GLNet = timm.create_model(name, pretrained=True)
    return model


def _label_names(model: "GLNet") -> Any:
    """A function from class index to name: the model's own names, ImageNet's for 1000 classes, or the number."""
    from timm.data import ImageNetInfo

    names = model.pretrained_cfg.get("label_names")
    if names:
        return lambda index: names[index]
    if model.num_classes == 1000:
        return ImageNetInfo().index_to_description
    return lambda index: f"class {index}"


def _find_images(paths: Iterable[Path], errors: list[dict[str, str]]) -> Iterator[Path]:
    """Files as they are given, folders searched for files that are named like images."""
    from PIL import Image

    known = Image.registered_extensions()
    for path in paths:
        if not path.is_dir():
            yield path
            continue
        found = sorted(file for file in path.rglob("*") if file.suffix.lower() in known and file.is_file())
        if not found:
            errors.append({"file": str(path), "error": "no images in this folder"})
        yield from found


def _open(file: Path, mode: str) -> "Image":
    from PIL import Image

    try:
        with Image.open(file) as image:
            return image.convert(mode)
    except Image.DecompressionBombError as error:
        raise ValueError(str(error)) from error
