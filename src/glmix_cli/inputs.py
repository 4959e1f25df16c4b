"""What commands take: images as files and folders, models by name, weights in any file that we know."""

import argparse
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor, nn

    from glmix import GLNet

__all__ = [
    "LOCAL",
    "add_model_arguments",
    "add_view_argument",
    "check_device",
    "class_probabilities",
    "find_images",
    "label_names",
    "load_classifier",
    "load_network",
    "open_image",
]


LOCAL = "local-dir:"

# suffixes of images that Pillow cannot decode, unless a plugin adds a decoder
OTHER_IMAGES = {
    *(".ai", ".avif", ".exr", ".heic", ".heif", ".hif", ".jxl", ".jxr", ".svg", ".svgz", ".webp", ".xcf"),
    *(".arw", ".cr2", ".cr3", ".dng", ".nef", ".orf", ".raf", ".rw2"),  # raw, of cameras
}


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
    from glmix.errors import InputError
    from glmix.weights import load

    if name is not None and name.startswith(LOCAL):
        if checkpoint is not None:
            raise InputError(f"--model {name} has weights of its own: leave it out, or --checkpoint.")
        return load(name.removeprefix(LOCAL)).network
    if checkpoint is None:
        what = "No model is named" if name is None else f"{name} has no weights of its own"
        raise InputError(f"{what}: give weights with --checkpoint, or --model {LOCAL}FOLDER.")
    return load(checkpoint, name).network


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


def find_images(paths: Iterable[Path], errors: list[dict[str, str]]) -> dict[Path, Path]:
    """Find images: files as they are given, and folders searched for files that are named like images.

    Args:
        paths: files and folders.
        errors: receives what is named like an image of a kind that cannot be read, and folders without images.

    Returns:
        {file: its path below the folder that was given, or its name}
    """
    found: dict[Path, Path] = {}
    for path in paths:
        try:
            is_folder = path.is_dir()
        except OSError as error:  # such as a name that is too long
            errors.append({"file": str(path), "error": error.strerror or str(error)})
            continue
        if not is_folder:
            found[path] = Path(path.name)
            continue
        inside = sorted(file for file in path.rglob("*") if _is_called_image(file) and not file.is_dir())
        if not inside:
            errors.append({"file": str(path), "error": "no images in this folder"})
        for file in inside:
            if _can_be_decoded(file):
                found[file] = file.relative_to(path)
            else:
                errors.append({"file": str(file), "error": f"{file.suffix.lower()} files cannot be decoded here"})
    return found


def _is_called_image(file: Path) -> bool:
    """Whether the suffix is that of an image, of a kind that can be decoded or not."""
    return file.suffix.lower() in OTHER_IMAGES or _can_be_decoded(file)


def _can_be_decoded(file: Path) -> bool:
    """Whether Pillow has a decoder for files with this suffix."""
    from PIL import Image

    return Image.registered_extensions().get(file.suffix.lower()) in Image.OPEN


def check_device(name: str) -> None:
    """Raise InputError if torch has no such device."""
    import torch

    from glmix.errors import InputError

    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError) as error:  # AssertionError from a torch that was built without it
        raise InputError(f"--device {name}: {str(error).splitlines()[0]}") from error


def open_image(
    file: Path, mode: str, upright: bool = False, *, max_pixels: int | None = None, at_least: int | None = None
) -> "Image":
    """Read an image as `glmix.data.core.decoding.read_image` does; a missing file is an InputError, too."""
    from glmix.data.core.decoding import read_image
    from glmix.errors import InputError

    try:
        return read_image(file, mode, upright=upright, max_pixels=max_pixels, at_least=at_least)
    except FileNotFoundError as error:
        raise InputError(str(error)) from error


def add_view_argument(parser: argparse.ArgumentParser, default: str) -> None:
    """Add --view, with the choices of `glmix.data.classification.views.View`."""
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
