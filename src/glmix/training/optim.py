"""Optimizers and learning rate schedules, built with timm from plain configuration values."""

import math
from dataclasses import dataclass
from typing import Any, Literal

from timm.optim import create_optimizer_v2, param_groups_layer_decay, param_groups_weight_decay
from timm.scheduler import CosineLRScheduler, MultiStepLRScheduler, PolyLRScheduler
from torch import Tensor, nn
from torch.optim import Optimizer

from ..compat import allow_gradient_clipping
from ..errors import InputError

__all__ = [
    "OptimizerConfig",
    "ScheduleConfig",
    "build_optimizer",
    "build_schedule",
    "no_weight_decay_names",
    "training_length",
]


@dataclass
class OptimizerConfig:
    """Configuration of the optimizer.

    Args:
        name: name of an optimizer in timm.
        lr: learning rate at an effective batch size of `base_batch`. It is scaled linearly with the effective batch
            size.
        base_batch: effective batch size (per process x processes x accumulation) for which `lr` was tuned. None uses
            `lr` without scaling.
        weight_decay: weight decay. Norms, biases, layer scales, slot scales and learned seeds have none.
        official_weight_decay: also apply weight decay to slot scales and learned seeds, as the reference
            implementation does.
        layer_decay: layer-wise learning rate decay: factor between the learning rate of a layer and of the next
            deeper layer. None for none.
        eps: epsilon in the denominator of the update.
        betas: decay rates of the running moments.
    """

    name: str = "adamw"
    lr: float = 2e-3
    base_batch: int | None = 2048
    weight_decay: float = 0.05
    official_weight_decay: bool = False
    layer_decay: float | None = None
    eps: float = 1e-8
    betas: tuple[float, float] = (0.9, 0.999)


@dataclass
class ScheduleConfig:
    """Configuration of the learning rate schedule: linear warm-up, then decay. It is updated every optimizer step.

    Args:
        kind: `cosine`, `poly` (polynomial decay) or `step` (multiplied by `gamma` at each milestone).
        warmup_epochs: length of the warm-up in epochs.
        warmup_steps: length of the warm-up in optimizer steps; it replaces `warmup_epochs`.
        warmup_lr: learning rate at the start of the warm-up. It is not scaled with the effective batch size.
        min_lr: final learning rate of `cosine` and `poly`. It is not scaled with the effective batch size.
        power: exponent of `poly`; 1 is linear decay.
        milestones: epochs after which `step` multiplies the learning rate by `gamma`.
        gamma: factor of `step`.
    """

    kind: Literal["cosine", "poly", "step"] = "cosine"
    warmup_epochs: float = 5.0
    warmup_steps: int | None = None
    warmup_lr: float = 0.0
    min_lr: float = 1e-5
    power: float = 1.0
    milestones: tuple[int, ...] = ()
    gamma: float = 0.1

    def __post_init__(self) -> None:
        if (self.kind == "step") != bool(self.milestones):
            raise InputError(
                f"schedule.milestones must be set for the kind 'step' and for no other kind, got {self.milestones} for "
                f"the kind {self.kind!r}."
            )


def no_weight_decay_names(model: nn.Module, official: bool) -> set[str]:
    """Return the names of parameters without weight decay, in addition to one-dimensional parameters.

    A slot scale has one dimension here and zero in the reference implementation, which decays it like learned seeds.
    """
    listed = getattr(model, "no_weight_decay", None)
    return set() if official or listed is None else set(listed())


# Optimizers of torch with a fused implementation, under their names in timm.
FUSED = ("adam", "adamw", "sgd", "nesterov", "momentum")


def build_optimizer(model: nn.Module, config: OptimizerConfig, global_batch: int, fused: bool = False) -> Optimizer:
    """Return an optimizer with parameter groups by weight decay and, with `layer_decay`, by depth.

    Args:
        model: the network.
        config: configuration of the optimizer.
        global_batch: effective batch size.
        fused: use PyTorch's fused implementation if the optimizer has one, and all weights are on a CPU or a GPU.
    """
    lr = config.lr if config.base_batch is None else config.lr * global_batch / config.base_batch
    names = no_weight_decay_names(model, config.official_weight_decay)
    groups: list[dict[str, Any]]
    if config.layer_decay is None:
        groups = param_groups_weight_decay(model, config.weight_decay, no_weight_decay_list=names)
    else:
        groups = param_groups_layer_decay(
            model, config.weight_decay, no_weight_decay_list=names, layer_decay=config.layer_decay
        )
    if config.official_weight_decay and config.weight_decay:
        groups = _decay_scales(model, groups, config.weight_decay)
    options: dict[str, Any] = {"eps": config.eps, "betas": config.betas}
    if config.name.split("_")[-1] in ("sgd", "nesterov", "momentum"):
        options = {}
    weights = [parameter for group in groups for parameter in group["params"]]
    fused = fused and config.name in FUSED and all(_can_be_fused(weight) for weight in weights)
    if fused:
        options["fused"] = True
    optimizer: Optimizer = create_optimizer_v2(groups, opt=config.name, lr=lr, weight_decay=0.0, **options)
    if fused:
        allow_gradient_clipping(optimizer)
    return optimizer


def _can_be_fused(weight: Tensor) -> bool:
    return weight.device.type in ("cpu", "cuda") and weight.is_floating_point() and type(weight) is nn.Parameter


def _decay_scales(model: nn.Module, groups: list[dict[str, Any]], weight_decay: float) -> list[dict[str, Any]]:
    """Move slot scales to parameter groups with weight decay and the same learning rate."""
    scales = {id(p) for name, p in model.named_parameters() if name.endswith("bridge.scale")}
    moved = []
    for group in groups:
        if group["weight_decay"]:
            continue
        found = [p for p in group["params"] if id(p) in scales]
        if found:
            group["params"] = [p for p in group["params"] if id(p) not in scales]
            moved.append({**group, "params": found, "weight_decay": weight_decay})
    return [group for group in groups if group["params"]] + moved


def build_schedule(
    optimizer: Optimizer, config: ScheduleConfig, steps_per_epoch: int, epochs: float
) -> CosineLRScheduler | PolyLRScheduler | MultiStepLRScheduler:
    """Return a scheduler of timm for `steps_per_epoch * epochs` optimizer steps, including the warm-up."""
    total = round(steps_per_epoch * epochs)
    warmup = round(steps_per_epoch * config.warmup_epochs) if config.warmup_steps is None else config.warmup_steps
    if total < 1:
        raise InputError(
            f"A schedule needs at least one step, got {steps_per_epoch} steps per epoch and {epochs} epochs."
        )
    if warmup >= total:
        length = f"{config.warmup_epochs:g} epochs" if config.warmup_steps is None else f"{warmup} steps"
        raise InputError(
            f"The warm-up takes {length}, but the whole training has {epochs:g} epochs of {steps_per_epoch} steps: set "
            "schedule.warmup_epochs or schedule.warmup_steps below trainer.max_epochs or trainer.max_steps."
        )
    warm: dict[str, Any] = {"warmup_t": warmup, "warmup_lr_init": config.warmup_lr, "t_in_epochs": False}
    if config.kind == "step":  # milestones count from the start of training, including the warm-up
        milestones = [round(steps_per_epoch * epoch) + 1 for epoch in config.milestones]  # timm decays one step early
        return MultiStepLRScheduler(optimizer, decay_t=milestones, decay_rate=config.gamma, warmup_prefix=False, **warm)
    down: dict[str, Any] = {"t_initial": total - warmup, "lr_min": config.min_lr, "warmup_prefix": True, **warm}
    if config.kind == "poly":
        return PolyLRScheduler(optimizer, power=config.power, **down)
    return CosineLRScheduler(optimizer, **down)


def training_length(trainer: Any, loader: Any) -> tuple[int, float]:
    """Return the number of optimizer steps per epoch and the number of epochs."""
    limit = trainer.limit_train_batches
    try:
        batches: float = len(loader)
    except TypeError:
        batches = math.inf
    if isinstance(limit, int):
        batches = min(batches, limit)
    elif math.isfinite(batches):
        batches = max(1, int(batches * limit))
    if not math.isfinite(batches):
        raise InputError(
            "The length of an epoch of these data is unknown: set trainer.limit_train_batches to a number."
        )
    steps = max(1, math.ceil(batches / trainer.accumulate_grad_batches))
    if trainer.max_steps > 0:
        return steps, trainer.max_steps / steps
    if trainer.max_epochs is None or trainer.max_epochs < 0:
        raise InputError("The schedule needs the length of the training: set trainer.max_epochs or trainer.max_steps.")
    return steps, trainer.max_epochs
