"""Optimiser and schedule as the recipes state them: plain numbers in, timm's objects out."""

from dataclasses import dataclass
from typing import Any, Literal

from timm.optim import create_optimizer_v2, param_groups_layer_decay, param_groups_weight_decay
from timm.scheduler import CosineLRScheduler, MultiStepLRScheduler, PolyLRScheduler
from torch import nn
from torch.optim import Optimizer

from ..errors import InputError

__all__ = ["OptimizerConfig", "ScheduleConfig", "build_optimizer", "build_schedule", "undecayed"]


@dataclass
class OptimizerConfig:
    """What updates the weights.

    Args:
        name: an optimiser's name in timm.
        lr: learning rate at a global batch of `base_batch`; it is scaled in proportion when the batch differs.
        base_batch: the global batch (per process x processes x accumulation) that `lr` is meant for; None takes `lr`
            as it stands, whatever the batch.
        weight_decay: none falls on norms, biases, layer scales, slot scales and learned seeds.
        official_weight_decay: let it fall on slot scales and learned seeds, as the reference did.
        layer_decay: each layer learns by this factor slower than the one behind it; None for none.
        eps: added to denominators.
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
    """How the learning rate moves, iteration by iteration: a linear warm-up, then down over the whole training.

    Args:
        kind: `cosine`, `poly` (a power of what is left) or `step` (a factor at each milestone).
        warmup_epochs: length of the warm-up.
        warmup_steps: the same in updates, instead of epochs.
        warmup_lr: where the warm-up begins.
        min_lr: where cosine and poly end. Neither this nor `warmup_lr` is scaled with the batch.
        power: of poly; 1 is a straight line.
        milestones: epochs after which the rate of `step` falls.
        gamma: by which factor.
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
                f"schedule.milestones are the epochs at which the kind 'step' falls, got {self.milestones} for "
                f"{self.kind!r}."
            )


def undecayed(model: nn.Module, official: bool) -> set[str]:
    """Parameters without weight decay beside those of one dimension that are never decayed.

    A slot scale has one dimension here and none in the reference, where it is decayed like the learned seeds.
    """
    listed = getattr(model, "no_weight_decay", None)
    return set() if official or listed is None else set(listed())


def build_optimizer(model: nn.Module, config: OptimizerConfig, global_batch: int) -> Optimizer:
    """An optimiser with parameter groups by weight decay and, where it is asked for, by depth."""
    lr = config.lr if config.base_batch is None else config.lr * global_batch / config.base_batch
    names = undecayed(model, config.official_weight_decay)
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
    optimizer: Optimizer = create_optimizer_v2(groups, opt=config.name, lr=lr, weight_decay=0.0, **options)
    return optimizer


def _decay_scales(model: nn.Module, groups: list[dict[str, Any]], weight_decay: float) -> list[dict[str, Any]]:
    """Move slot scales from groups without weight decay to groups of the same learning rate with it."""
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
    """timm's schedule over `steps_per_epoch * epochs` updates, of which the warm-up takes the first."""
    total = round(steps_per_epoch * epochs)
    warmup = round(steps_per_epoch * config.warmup_epochs) if config.warmup_steps is None else config.warmup_steps
    if total < 1:
        raise InputError(f"A schedule needs at least one step, got {steps_per_epoch} steps an epoch, {epochs} epochs.")
    if warmup >= total:
        length = f"{config.warmup_epochs:g} epochs" if config.warmup_steps is None else f"{warmup} steps"
        raise InputError(
            f"The warm-up takes {length} and the whole training {epochs:g} epochs of {steps_per_epoch} steps: set "
            "schedule.warmup_epochs or schedule.warmup_steps below trainer.max_epochs or trainer.max_steps."
        )
    warm: dict[str, Any] = {"warmup_t": warmup, "warmup_lr_init": config.warmup_lr, "t_in_epochs": False}
    if config.kind == "step":  # milestones count from the beginning, whatever the warm-up
        milestones = [round(steps_per_epoch * epoch) + 1 for epoch in config.milestones]  # timm falls one earlier
        return MultiStepLRScheduler(optimizer, decay_t=milestones, decay_rate=config.gamma, warmup_prefix=False, **warm)
    down: dict[str, Any] = {"t_initial": total - warmup, "lr_min": config.min_lr, "warmup_prefix": True, **warm}
    if config.kind == "poly":
        return PolyLRScheduler(optimizer, power=config.power, **down)
    return CosineLRScheduler(optimizer, **down)
