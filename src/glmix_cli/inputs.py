"""What commands take: images as files and folders, models by name, weights in any file that we know."""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from PIL.Image import Image

    from glmix import GLNet

__all__ = ["check_device", "find_images", "label_names", "load_classifier", "open_image"]

# suffixes of images that Pillow cannot decode, unless a plugin adds a decoder
OTHER_IMAGES = {
    *(".ai", ".avif", ".exr", ".heic", ".heif", ".hif", ".jxl", ".jxr", ".svg", ".svgz", ".webp", ".xcf"),
    *(".arw", ".cr2", ".cr3", ".dng", ".nef", ".orf", ".raf", ".rw2"),  # raw, of cameras
}


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
    """Raise ValueError for a device that is not there."""
    import torch

    from glmix.errors import InputError

    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError) as error:  # AssertionError from a torch that was built without it
        raise InputError(f"--device {name}: {str(error).splitlines()[0]}") from error


def open_image(
    file: Path, mode: str, upright: bool = False, *, max_pixels: int | None = None, at_least: int | None = None
) -> "Image":
    """Read an image as `glmix.data.decoding.read_image` does; a missing file is an InputError, too."""
    from glmix.data.decoding import read_image
    from glmix.errors import InputError

    try:
        return read_image(file, mode, upright=upright, max_pixels=max_pixels, at_least=at_least)
    except FileNotFoundError as error:
        raise InputError(str(error)) from error
