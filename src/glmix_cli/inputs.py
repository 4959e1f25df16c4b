"""What commands take: images as files and folders, models by name, weights in any file that we know."""

import argparse
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import nn

    from glmix import GLNet

__all__ = [
    "LOCAL",
    "add_model_arguments",
    "check_device",
    "find_images",
    "label_names",
    "load_classifier",
    "load_network",
    "open_image",
]


LOCAL = "local-dir:"


def add_model_arguments(parser: argparse.ArgumentParser, untrained: str | None = None) -> None:
    """Add --model and --checkpoint, and --untrained if there is a help text for it."""
    parser.add_argument(
        "--model",
        metavar="NAME",
        help=f"{LOCAL}FOLDER, a model with its weights; or the name (see `glmix models`) of the model whose weights "
        "--checkpoint gives, which is needed only if they do not tell it",
    )
    parser.add_argument(
        "--checkpoint",
        type=Path,
        metavar="PATH",
        help="weights: a .ckpt of `glmix fit`, which tells its model; an authors' .pth; a state dict or safetensors",
    )
    if untrained is not None:
        parser.add_argument("--untrained", action="store_true", help=untrained)


def load_network(name: str | None, checkpoint: Path | None) -> "nn.Module":
    """Load what --model and --checkpoint name together, in evaluation mode.

    Args:
        name: local-dir:FOLDER, a model's name, or None.
        checkpoint: a `.ckpt` of `glmix fit` on any task, an authors' file, a state dict or safetensors, or None.

    Raises:
        InputError: the two name nothing with weights, or contradict each other, or a file is malformed.
    """
    import glmix
    from glmix.errors import InputError
    from glmix.models import load_folder

    if name is not None and name.startswith(LOCAL):
        if checkpoint is not None:
            raise InputError(f"--model {name} has weights of its own: leave it out, or --checkpoint.")
        return load_folder(name.removeprefix(LOCAL))
    if checkpoint is None:
        what = "No model is named" if name is None else f"{name} has no weights of its own"
        raise InputError(f"{what}: give weights with --checkpoint, or --model {LOCAL}FOLDER.")
    if checkpoint.suffix != ".ckpt":
        return glmix.load_official(checkpoint, name).eval()
    from glmix.tasks.trained import load_trained, read_info

    if name is not None and (held := read_info(checkpoint)["model"]).split(".")[0] != name.split(".")[0]:
        raise InputError(f"{checkpoint} holds a {held}, and --model says {name}: leave --model out.")
    return load_trained(checkpoint)


def load_classifier(name: str | None, checkpoint: Path | None) -> "GLNet":
    """Load a trained classifier; see `load_network`."""
    import glmix
    from glmix.errors import InputError

    network = load_network(name, checkpoint)
    if not isinstance(network, glmix.GLNet):
        held = type(network).__name__
        raise InputError(f"{checkpoint or name} holds a {held}, and this command needs a GLNet as classifier.")
    return network


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
