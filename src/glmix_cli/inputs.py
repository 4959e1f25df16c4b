"""Inputs of commands: model names and weight files."""

import argparse
import os
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import nn

    from glmix import GLNet

__all__ = [
    "LOCAL",
    "add_model_arguments",
    "add_view_argument",
    "check_device",
    "load_classifier",
    "load_network",
]


LOCAL = "local-dir:"


def add_model_arguments(parser: argparse.ArgumentParser, untrained: str | None = None) -> None:
    """Add --model and --checkpoint to a parser, and --untrained if its help text is given."""
    parser.add_argument(
        "--model",
        metavar="NAME",
        help=f"{LOCAL}FOLDER for a folder with config.json and weights; or the model name (see `glmix models`) for the "
        "weights in --checkpoint, needed only if the checkpoint does not identify its model; or, without --checkpoint, "
        "the name of a pretrained model of timm, whose weights are downloaded",
    )
    parser.add_argument(
        "--checkpoint",
        type=Path,
        metavar="PATH",
        help="weights: a .ckpt written by `glmix fit` (it contains the model name), a .pth published by the GLMix "
        "authors, or a state dict as .pth or .safetensors",
    )
    if untrained is not None:
        parser.add_argument("--untrained", action="store_true", help=untrained)


def load_network(name: str | None, checkpoint: Path | None) -> "nn.Module":
    """Load the network that --model and --checkpoint describe, in evaluation mode.

    Args:
        name: local-dir:FOLDER, a model name, or None. Without a checkpoint, the pretrained weights of timm are used.
        checkpoint: a `.ckpt` of `glmix fit` for any task, a file of the GLMix authors, a state dict or safetensors
            file, or None.

    Returns:
        The network with its weights.

    Raises:
        InputError: there are no weights, the arguments contradict each other, or a file is malformed.
    """
    from glmix.errors import InputError
    from glmix.weights import load

    if name is not None and name.startswith(LOCAL):
        if checkpoint is not None:
            raise InputError(f"--model {name} already contains weights; give either --model or --checkpoint, not both.")
        return load(name.removeprefix(LOCAL)).network
    if checkpoint is None:
        import timm

        if name is not None and timm.is_model_pretrained(name):
            pretrained: nn.Module = timm.create_model(name, pretrained=True).eval()
            return pretrained
        problem = "No model was given" if name is None else f"No weights were given for {name}"
        raise InputError(f"{problem}: use --checkpoint FILE or --model {LOCAL}FOLDER.")
    return load(checkpoint, name).network


def load_classifier(name: str | None, checkpoint: Path | None) -> "GLNet":
    """Load a trained classifier.

    Args:
        name: see `load_network`.
        checkpoint: see `load_network`.

    Raises:
        InputError: the network is not a GLNet, or `load_network` raises.
    """
    import glmix
    from glmix.errors import InputError

    network = load_network(name, checkpoint)
    if not isinstance(network, glmix.GLNet):
        kind = type(network).__name__
        raise InputError(f"{checkpoint or name} contains a {kind}, but this command needs a GLNet classifier.")
    return network


def check_device(name: str) -> None:
    """Raise InputError if torch cannot use the device.

    In a process of torchrun, the device `cuda` becomes the GPU with its local rank; processes share the GPUs if there
    are fewer.
    """
    import torch

    from glmix.errors import InputError

    if name == "cuda" and "LOCAL_RANK" in os.environ and torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]) % torch.cuda.device_count())
    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError) as error:  # AssertionError: torch was built without support for it
        raise InputError(f"--device {name}: {str(error).splitlines()[0]}") from error


def add_view_argument(parser: argparse.ArgumentParser, default: str) -> None:
    """Add --view to a parser, with the choices of `glmix.data.classification.views.View`."""
    parser.add_argument(
        "--view",
        choices=("crop", "whole"),
        default=default,
        help="part of the image that the model gets: 'crop' for the resized centre crop of its evaluation transform, "
        "'whole' for the whole image, resized to the model's input size along its shorter side with the aspect ratio "
        "kept (default: %(default)s)",
    )
