"""LoRA: low-rank adapters of frozen layers, trained with peft and merged without it."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from ..errors import InputError, MissingExtraError
from ..files import atomic_write
from ..models.restore import checked_arguments

__all__ = ["LoraConfig", "add_lora", "lora_parameters", "merge_lora", "write_adapter"]

StateDict = dict[str, Tensor]
BASE, A, B = ".base_layer.", ".lora_A.default.weight", ".lora_B.default.weight"  # parameter names of peft
ENTRIES: dict[str, Any] = {"rank": int, "alpha": float, "dropout": float, "targets": Sequence[str]}


@dataclass
class LoraConfig:
    """Configuration of LoRA. The weights of the backbone are frozen, and low-rank updates of them are trained.

    Args:
        rank: rank of the update of each layer.
        alpha: the update is multiplied by alpha / rank.
        dropout: dropout probability of the input of an update.
        targets: names of the layers with an update, at the end of their full names. They must be linear layers or 1x1
            convolutions. The default is the attention projections and the two layers of the MLPs, in a GLNet and in
            most models of timm.
    """

    rank: int = 8
    alpha: float = 16.0
    dropout: float = 0.0
    targets: tuple[str, ...] = ("qkv", "proj", "fc1", "fc2")

    def __post_init__(self) -> None:
        self.targets = tuple(self.targets)  # YAML gives a list
        if self.rank < 1 or self.alpha <= 0:
            raise InputError(f"lora.rank must be at least 1 and alpha above 0, got {self.rank} and {self.alpha}.")
        if not 0 <= self.dropout < 1:
            raise InputError(f"lora.dropout must be a probability from 0 to below 1, got {self.dropout}.")

    def plain(self) -> dict[str, Any]:
        """Return the configuration as a JSON-compatible dictionary."""
        return {**dataclasses.asdict(self), "targets": list(self.targets)}


def _peft() -> Any:
    try:
        import peft
    except ImportError as error:
        raise MissingExtraError(f"LoRA needs {error.name}: pip install 'glmix[lora]'.") from error
    return peft


def _is_adaptable(module: nn.Module) -> bool:
    return isinstance(module, nn.Linear) or (
        isinstance(module, nn.Conv2d) and module.kernel_size == (1, 1) and module.groups == 1
    )


def add_lora(backbone: nn.Module, config: LoraConfig, excluded: Sequence[nn.Module] = ()) -> None:
    """Add adapters to a backbone, in place. Its other parameters stay as trainable as they were.

    Args:
        backbone: a model of timm.
        config: configuration of the adapters.
        excluded: layers without adapters.

    Raises:
        InputError: if a target does not name a linear layer or 1x1 convolution of the backbone.
        MissingExtraError: if peft is not installed.
    """
    peft = _peft()
    found = [name for name, module in backbone.named_modules() if _is_adaptable(module) and module not in excluded]
    chosen = {target: [name for name in found if f".{name}".endswith(f".{target}")] for target in config.targets}
    unused = [target for target in config.targets if not chosen[target]]
    if unused and (len(unused) == len(chosen) or config.targets != LoraConfig.targets):
        names = sorted({name.rpartition(".")[2] for name in found})
        raise InputError(
            f"lora.targets has {', '.join(unused)}, which is not a linear layer or 1x1 convolution of "
            f"{type(backbone).__name__}: these end with {', '.join(names)}."
        )
    before = {id(p): p.requires_grad for p in backbone.parameters()}
    options = peft.LoraConfig(
        r=config.rank,
        lora_alpha=config.alpha,
        lora_dropout=config.dropout,
        target_modules=[name for names in chosen.values() for name in names],
    )
    peft.inject_adapter_in_model(options, backbone)
    for parameter in backbone.parameters():  # peft has frozen everything but its adapters
        parameter.requires_grad_(before.get(id(parameter), True))


def lora_parameters(network: nn.Module) -> list[nn.Parameter]:
    """Return the parameters of the adapters."""
    return [p for name, p in network.named_parameters() if name.endswith((A, B))]


def _fits(weight: Tensor, a: Tensor, b: Tensor, rank: int) -> bool:
    matrices = [tuple(tensor.flatten(1).shape) if tensor.ndim > 1 else () for tensor in (weight, a, b)]
    return () not in matrices and matrices == [(b.shape[0], a[0].numel()), (rank, a[0].numel()), (b.shape[0], rank)]


def merge_lora(weights: StateDict, config: Any, path: Path) -> StateDict:
    """Return the weights of the network without adapters that computes the same.

    peft merges modules; weights of a checkpoint are merged here, so that using a trained network does not need peft.

    Args:
        weights: weights of a network with adapters.
        config: `LoraConfig.plain()` from the checkpoint, which is untrusted.
        path: path of the checkpoint, for error messages.
    """
    if not isinstance(config, dict):
        raise InputError(f"{path} has an entry 'lora' that is not a configuration of LoRA.")
    options = LoraConfig(**checked_arguments(config, ENTRIES, path, "entries of lora"))
    merged: StateDict = {}
    for name, tensor in weights.items():
        layer, is_base, kind = name.rpartition(BASE)
        if name.endswith((A, B)):
            continue
        if is_base and kind == "weight":
            a, b = weights.get(layer + A), weights.get(layer + B)
            if a is None or b is None or not _fits(tensor, a, b, options.rank):
                raise InputError(f"{path} has no adapter that fits the layer {layer}.")
            update = b.flatten(1).float() @ a.flatten(1).float() * (options.alpha / options.rank)
            tensor = (tensor.float() + update.reshape(tensor.shape)).to(tensor.dtype)
        merged[f"{layer}.{kind}" if is_base else name] = tensor
    return merged


def write_adapter(
    weights: StateDict, config: Any, classifiers: Sequence[str], model: str, folder: Path, path: Path
) -> None:
    """Write adapters and the classifier as a folder that `peft.PeftModel.from_pretrained` loads.

    Args:
        weights: weights of a classifier with adapters.
        config: `LoraConfig.plain()` from the checkpoint, which is untrusted.
        classifiers: names of the classifier layers.
        model: name of the model.
        folder: output folder.
        path: path of the checkpoint, for error messages.
    """
    from safetensors.torch import save_file

    merge_lora(weights, config, path)  # checks the shapes
    options = LoraConfig(**config)
    description = _peft().LoraConfig(
        r=options.rank,
        lora_alpha=options.alpha,
        lora_dropout=options.dropout,
        target_modules=[name.removesuffix(A) for name in weights if name.endswith(A)],
        modules_to_save=list(classifiers),
        base_model_name_or_path=model,
        inference_mode=True,
    )
    layers = tuple(f"{layer}." for layer in classifiers)
    saved = {
        f"base_model.model.{name.replace('.default.', '.')}": tensor.contiguous()
        for name, tensor in weights.items()
        if name.endswith((A, B)) or name.startswith(layers)
    }
    with atomic_write(folder / "adapter_model.safetensors") as part:
        save_file(saved, part, metadata={"format": "pt"})
    description.save_pretrained(folder)
