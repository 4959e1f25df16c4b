"""Fine-tuning of parts of a network: frozen layers, head warm-up and LoRA."""

from collections.abc import Iterable
from types import MethodType
from typing import Any

from timm.models import FeatureListNet, group_parameters
from torch import nn

from ..errors import InputError
from .lora import LoraConfig, add_lora, lora_parameters

__all__ = ["Freezing", "backbone_of", "classifiers_of", "frozen_parameters", "set_trainable"]


class Freezing:
    """Selection of the trained parameters, as a pure function of the epoch.

    Args:
        stages: number of stages of the backbone, from the end, to train besides the head; None trains everything.
        head_epochs: number of epochs at the start in which only the head is trained.
        lora: train low-rank updates of the backbone in place of its weights; None for no adapters.
    """

    def __init__(self, stages: int | None, head_epochs: int, lora: LoraConfig | None) -> None:
        if stages is not None and stages < 0:
            raise InputError(f"model.trainable_stages must be 0 or more, or null to train everything, got {stages}.")
        if head_epochs < 0:
            raise InputError(f"model.head_epochs must be 0 or more, got {head_epochs}.")
        if lora is not None and stages is not None:
            raise InputError(
                f"model.lora freezes all weights of the backbone, so model.trainable_stages must be null, got {stages}."
            )
        if head_epochs and stages == 0:
            raise InputError(
                "model.head_epochs must be 0 with model.trainable_stages=0, which never trains other layers."
            )
        self.stages, self.head_epochs, self.lora = stages, head_epochs, lora
        self._trained: list[nn.Parameter] = []
        self._head: list[nn.Parameter] = []

    def __bool__(self) -> bool:
        """Return whether any parameter is frozen in any epoch."""
        return self.stages is not None or self.head_epochs > 0 or self.lora is not None

    def prepare(self, network: nn.Module, *, sharded: bool = False) -> None:
        """Add the adapters, and freeze the parameters that are frozen in all epochs."""
        if not self:
            return
        if sharded:
            raise InputError(
                "model.trainable_stages, head_epochs and lora do not support sharded weights: set trainer.strategy to "
                "ddp or auto."
            )
        backbone = backbone_of(network)
        if self.lora is not None:
            add_lora(backbone, self.lora, classifiers_of(backbone))
        stages = 0 if self.lora is not None else self.stages
        never = [] if stages is None else frozen_parameters(network, stages)
        adapters = {id(p) for p in lora_parameters(network)}
        frozen = {id(p) for p in never} - adapters
        backbone_parameters = {id(p) for p in frozen_parameters(network, 0)}
        self._trained = [p for p in network.parameters() if p.requires_grad and id(p) not in frozen]
        self._head = [p for p in self._trained if id(p) not in backbone_parameters]
        set_trainable(network, self._trained)

    def check_strategy(self, wrapper: nn.Module | None) -> None:
        """Raise InputError if DistributedDataParallel would wait for gradients of layers that are trained later."""
        is_ddp = isinstance(wrapper, nn.parallel.DistributedDataParallel)
        if self.head_epochs and is_ddp and not wrapper.find_unused_parameters:  # type: ignore[union-attr]
            raise InputError(
                "model.head_epochs on several processes needs --trainer.strategy ddp_find_unused_parameters_true."
            )

    def checkpoint_info(self) -> dict[str, Any]:
        """Return the metadata that a checkpoint needs so that its adapters can be merged."""
        return {"lora": self.lora.plain()} if self.lora is not None else {}

    def start_epoch(self, network: nn.Module, epoch: int) -> None:
        """Freeze the layers that are frozen in an epoch, and train the others."""
        if self:
            set_trainable(network, self._head if epoch < self.head_epochs else self._trained)


def backbone_of(network: nn.Module) -> nn.Module:
    """Return the backbone of a network, which for a classifier is the whole network.

    Raises:
        InputError: if the network contains no backbone of timm or of this package.
    """
    for module in network.modules():
        if hasattr(module, "group_matcher") or isinstance(module, FeatureListNet):
            return module
    raise InputError(f"{type(network).__name__} has no backbone whose layers can be frozen: it is not a timm model.")


def frozen_parameters(network: nn.Module, last_stages: int) -> list[nn.Parameter]:
    """Return the parameters of the backbone that are not trained.

    Stages are the groups of the coarse `group_matcher` of a timm model: for a GLNet its four stages, for a vision
    transformer its blocks.

    Args:
        network: a classifier, or a network for dense prediction with a backbone.
        last_stages: number of stages, from the end, to train besides the head. 0 trains only the classifier, or in
            dense prediction everything but the backbone.

    Raises:
        InputError: if the backbone has no more stages than that.
    """
    backbone = backbone_of(network)
    head = {id(p) for layer in classifiers_of(backbone) for p in layer.parameters()}
    if last_stages == 0:
        return [p for p in backbone.parameters() if id(p) not in head]
    groups = [group for group in _groups(backbone) if not head & {id(p) for p in group}]
    if last_stages >= len(groups):
        raise InputError(
            f"model.trainable_stages is {last_stages}, but of the {len(groups)} groups of layers of "
            f"{type(backbone).__name__} (with the stem) at least one must be frozen: it takes 0 to {len(groups) - 1}, "
            "or null to train everything."
        )
    return [p for group in groups[: len(groups) - last_stages] for p in group]


def classifiers_of(backbone: nn.Module) -> list[nn.Module]:
    """Return the classifier layers of a model of timm."""
    if not hasattr(backbone, "get_classifier"):
        return []
    found: Any = backbone.get_classifier()  # type: ignore[operator]
    layers = found if isinstance(found, tuple | list) else (found,)
    return [layer for layer in layers if isinstance(layer, nn.Module)]


def _groups(backbone: nn.Module) -> list[list[nn.Parameter]]:
    """Return the parameters of the stem, of each stage and of the head, in the order of the forward pass."""
    if not isinstance(backbone, FeatureListNet):
        matcher: Any = backbone.group_matcher
        found: dict[int, list[nn.Parameter]] = group_parameters(backbone, matcher(coarse=True), return_values=True)
        return [found[number] for number in sorted(found)]
    groups: list[list[nn.Parameter]] = [[]]
    for name, child in backbone.named_children():
        groups[-1].extend(child.parameters())
        if name in backbone.return_layers:  # the last layer of a stage
            groups.append([])
    return [group for group in groups if group]


def set_trainable(network: nn.Module, parameters: Iterable[nn.Parameter]) -> None:
    """Train these parameters of a network and freeze all others.

    A layer whose parameters are all frozen stays in evaluation mode, also after `network.train()`: BatchNorm keeps its
    running statistics, and the frozen layers at the start of a network run without dropout and without a graph.
    """
    trained = {id(p) for p in parameters}
    for parameter in network.parameters():
        parameter.requires_grad_(id(parameter) in trained)
    for module in network.modules():
        vars(module).pop("train", None)
    network.train(network.training)
    _keep_frozen_in_evaluation_mode(network)


def _keep_frozen_in_evaluation_mode(module: nn.Module) -> None:
    flags = [p.requires_grad for p in module.parameters()]
    if any(flags):
        for child in module.children():
            _keep_frozen_in_evaluation_mode(child)
    elif flags:
        module.train = MethodType(_stay_in_evaluation_mode, module)  # type: ignore[method-assign]
        module.eval()


def _stay_in_evaluation_mode(module: nn.Module, mode: bool = True) -> nn.Module:
    return type(module).train(module, False)
