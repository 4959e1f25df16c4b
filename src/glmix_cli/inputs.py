"""What commands take: images as files and folders, models by name, weights in any file that we know."""

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import argparse

    from PIL.Image import Image
    from torch import Tensor

    from glmix import GLNet

__all__ = [
    "add_view_argument",
    "check_device",
    "class_probabilities",
    "find_images",
    "label_names",
    "load_classifier",
    "open_image",
]


def load_classifier(name: str | None, checkpoint: Path | None) -> "GLNet":
    """A trained classifier: a `.ckpt` of `glmix fit`, a model's name with an authors' file, or local-dir:FOLDER."""
    import timm

    import glmix
    from glmix.errors import InputError

    if checkpoint is not None and checkpoint.suffix == ".ckpt":
        from glmix.tasks.trained import load_trained

        trained = load_trained(checkpoint)
        if not isinstance(trained, glmix.GLNet):
            raise InputError(f"{checkpoint} holds a {type(trained).__name__}, and this command needs a classifier.")
        return trained
    if checkpoint is not None:
        return glmix.load_official(checkpoint, name)
    if name is None or not name.startswith("local-dir:"):
        raise InputError(f"{name} has no weights of its own to predict with: give them with --checkpoint.")
    model: GLNet = timm.create_model(name, pretrained=True)
    return model


def label_names(model: "GLNet") -> Callable[[int], str]:
    """A function from class index to name: the model's own names, ImageNet's for 1000 classes, or the number."""
    from timm.data import ImageNetInfo

    names = model.pretrained_cfg.get("label_names")
    if names:
        return lambda index: names[index]
    if model.num_classes == 1000:
        return ImageNetInfo().index_to_description
    return lambda index: f"class {index}"


def find_images(paths: Iterable[Path], errors: list[dict[str, str]]) -> Iterator[Path]:
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


def check_device(name: str) -> None:
    """Raise ValueError for a device that is not there."""
    import torch

    from glmix.errors import InputError

    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError) as error:  # AssertionError from a torch that was built without it
        raise InputError(f"--device {name}: {str(error).splitlines()[0]}") from error


def open_image(file: Path, mode: str, upright: bool = False) -> "Image":
    """The image in a mode of Pillow's; `upright`: turned as its EXIF tag says."""
    from PIL import Image, ImageOps

    from glmix.data.decoding import eight_bits
    from glmix.errors import InputError

    try:
        with Image.open(file) as image:
            return eight_bits(ImageOps.exif_transpose(image) if upright else image).convert(mode)
    except Image.DecompressionBombError as error:
        raise InputError(str(error)) from error


def add_view_argument(parser: "argparse.ArgumentParser", default: str) -> None:
    """Add --view, with the choices of `glmix.data.views.View`."""
    parser.add_argument(
        "--view",
        choices=("crop", "whole"),
        default=default,
        help="what the model sees: 'crop', the resized centre crop of its evaluation transform, or 'whole', the whole "
        "image resized so that its shorter side is the model's, aspect ratio kept (default: %(default)s)",
    )


def class_probabilities(model: "GLNet", logits: "Tensor", multi_label: bool = False) -> "Tensor":
    """Turn logits (..., K) into probabilities: sigmoids where classes do not exclude each other, else a softmax."""
    logits = logits.float()
    if multi_label or model.pretrained_cfg.get("multi_label", False):
        return logits.sigmoid()
    return logits.softmax(-1)
