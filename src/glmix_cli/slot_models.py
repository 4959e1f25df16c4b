"""Models of `glmix explain`: trained models from any supported file, and random models to compare with."""

import argparse
import copy
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .inputs import LOCAL, check_device, load_network

if TYPE_CHECKING:
    from glmix import GLNet
    from glmix.slots import ExplainedModel

__all__ = ["load_models"]

UNTRAINED = "untrained"


def load_models(args: argparse.Namespace) -> "list[ExplainedModel]":
    """Load the first model and the models to compare with it, from --model, --checkpoint, --untrained and --compare.

    Raises:
        InputError: the options contradict each other, or the models show different numbers of blocks.
    """
    from glmix.errors import InputError

    check_device(args.device)
    if args.untrained and args.checkpoint is not None:
        raise InputError("--untrained uses random weights: it cannot be combined with --checkpoint.")
    if args.untrained:
        first = _random_model(args.model, args.seed)
        warning = _warning(args.seed)
    elif args.model is None and args.checkpoint is None:
        raise InputError(
            "No model was given: use --checkpoint, --model local-dir:FOLDER, or --model NAME with --untrained."
        )
    elif args.checkpoint is None and not args.model.startswith(LOCAL):
        raise InputError(f"No weights were given for {args.model}: use --checkpoint, or --untrained for random ones.")
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
            names_its_model = path.suffix == ".ckpt" or not args.model or args.model.startswith(LOCAL)
            network, warning = _trained(None if names_its_model else args.model, path), None
        models.append(_model(network, _title(network, None if warning else other), args, warning))
    counts = [len(model.blocks or ()) for model in models]
    if len(set(counts)) > 1:
        shown = ", ".join(f"{count} of {model.title}" for count, model in zip(counts, models, strict=True))
        raise InputError(
            f"Models side by side must show the same number of blocks, got {shown}: choose blocks with --blocks."
        )
    return models


def _model(network: "GLNet", title: str, args: argparse.Namespace, warning: str | None) -> "ExplainedModel":
    from glmix.inference import label_names
    from glmix.slots import ExplainedModel, chosen_blocks, last_blocks

    wanted = None if args.blocks is None or None in args.blocks else args.blocks
    blocks = last_blocks(network) if args.blocks is None else chosen_blocks(network, wanted)
    return ExplainedModel(title, network.to(args.device).eval(), blocks, label_names(network), warning)


def _trained(name: str | None, checkpoint: Path | None) -> "GLNet":
    """Load the GLNet of a checkpoint of any task, which may be the backbone of a larger network."""
    import glmix
    from glmix.errors import InputError

    network = load_network(name, checkpoint)
    found = next((module for module in network.modules() if isinstance(module, glmix.GLNet)), None)
    if found is None:
        raise InputError(f"{checkpoint or name} contains a {type(network).__name__}, which has no GLNet to explain.")
    return found


def _random_model(name: str | None, seed: int) -> "GLNet":
    """Create a model with random weights."""
    import timm
    import torch

    from glmix.errors import InputError
    from glmix.models.hub import build_folder

    if name is None:
        raise InputError("--untrained needs --model NAME or --model local-dir:FOLDER.")
    if not name.startswith(LOCAL) and not timm.is_model(name):
        raise InputError(f"{name} is not a timm model; `glmix models` lists the GLNet models.")
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network: Any = build_folder(name.removeprefix(LOCAL)) if name.startswith(LOCAL) else timm.create_model(name)
    return network


def _reset(network: "GLNet", seed: int) -> "GLNet":
    """Return a copy of a model with random weights."""
    import torch

    fresh = copy.deepcopy(network).cpu()
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        fresh.init_weights()
    return fresh


def _warning(seed: int) -> str:
    """Return the warning that figures show for random weights."""
    return f"Random weights (seed {seed}): this model is not trained."


def _title(network: "GLNet", source: str | Path | None) -> str:
    """Return the title of a model: its architecture and the last parts of the path of its weights."""
    name = network.pretrained_cfg.get("architecture", type(network).__name__)
    if source is None or str(source) == name:
        return f"{name}"
    parts = Path(str(source).removeprefix("local-dir:")).parts
    return f"{name}, {Path(*parts[-3:])}"  # the last parts of the path distinguish runs
