"""The models whose slots a command shows: trained ones from any file that we know, and random ones beside them."""

import argparse
import copy
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .inputs import LOCAL, check_device, label_names, load_network

if TYPE_CHECKING:
    from glmix import GLNet

__all__ = ["Model", "load_models"]

UNTRAINED = "untrained"


@dataclass(frozen=True, eq=False)
class Model:
    """A model as it is shown.

    Args:
        title: what it is called.
        network: in evaluation mode.
        blocks: which ones a figure shows.
        labels: from the number of a class to its name.
        warning: what a figure must say about it.
    """

    title: str
    network: "GLNet"
    blocks: list[int]
    labels: Callable[[int], str]
    warning: str | None = None

    @property
    def multi_label(self) -> bool:
        """Whether it is known that its classes do not exclude each other."""
        return self.network.multi_label


def load_models(args: argparse.Namespace) -> list[Model]:
    """The model that is asked for, and those to compare it with: --model, --checkpoint, --untrained, --compare."""
    from glmix.errors import InputError

    check_device(args.device)
    if args.untrained and args.checkpoint is not None:
        raise InputError("--untrained means random weights: leave --checkpoint out, or --untrained.")
    if args.untrained:
        first = _random_model(args.model, args.seed)
        warning = _warning(args.seed)
    elif args.model is None and args.checkpoint is None:
        raise InputError("give --checkpoint, --model local-dir:FOLDER, or --model NAME with --untrained.")
    elif args.checkpoint is None and not args.model.startswith(LOCAL):
        raise InputError(f"{args.model} has no weights: give --checkpoint, or --untrained to see random ones.")
    else:
        first = _trained(args.model, args.checkpoint)
        warning = None
    models = [_model(first, _title(first, args.checkpoint or args.model), args, warning)]
    for other in args.compare:
        if other == UNTRAINED:
            network, warning = _reset(first, args.seed), _warning(args.seed)
        elif other.startswith(LOCAL):
            network, warning = _trained(other, None), None
        else:
            path = Path(other)
            tells_its_model = path.suffix == ".ckpt" or not args.model or args.model.startswith(LOCAL)
            network, warning = _trained(None if tells_its_model else args.model, path), None
        models.append(_model(network, _title(network, None if warning else other), args, warning))
    counts = {len(model.blocks) for model in models}
    if len(counts) > 1:
        shown = ", ".join(f"{len(model.blocks)} of {model.title}" for model in models)
        raise InputError(f"Models side by side need as many blocks each: {shown}. Choose some with --blocks.")
    return models


def _model(network: "GLNet", title: str, args: argparse.Namespace, warning: str | None) -> Model:
    from glmix.slots import chosen_blocks, last_blocks

    wanted = None if args.blocks is None or None in args.blocks else args.blocks
    blocks = last_blocks(network) if args.blocks is None else chosen_blocks(network, wanted)
    return Model(title, network.to(args.device).eval(), blocks, label_names(network), warning)


def _trained(name: str | None, checkpoint: Path | None) -> "GLNet":
    """Load the GLNet of any checkpoint, also of one in which it is a backbone."""
    import glmix
    from glmix.errors import InputError

    network = load_network(name, checkpoint)
    found = next((module for module in network.modules() if isinstance(module, glmix.GLNet)), None)
    if found is None:
        raise InputError(f"{checkpoint or name} holds a {type(network).__name__} without a GLNet in it.")
    return found


def _random_model(name: str | None, seed: int) -> "GLNet":
    import timm
    import torch

    from glmix.errors import InputError
    from glmix.models.hub import build_folder

    if name is None:
        raise InputError("--untrained needs the --model of which it makes one.")
    if not name.startswith(LOCAL) and not timm.is_model(name):
        raise InputError(f"{name} is no model that timm knows; `glmix models` lists ours.")
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network: Any = build_folder(name.removeprefix(LOCAL)) if name.startswith(LOCAL) else timm.create_model(name)
    return network


def _reset(network: "GLNet", seed: int) -> "GLNet":
    """The same model with random weights."""
    import torch

    fresh = copy.deepcopy(network).cpu()
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        fresh.init_weights()
    return fresh


def _warning(seed: int) -> str:
    return f"Random weights, seed {seed}: nothing here was learnt."


def _title(network: "GLNet", source: str | Path | None) -> str:
    name = network.pretrained_cfg.get("architecture", type(network).__name__)
    if source is None or str(source) == name:
        return f"{name}"
    parts = Path(str(source).removeprefix("local-dir:")).parts
    return f"{name}, {Path(*parts[-3:])}"  # as much of the path as tells one run from another
