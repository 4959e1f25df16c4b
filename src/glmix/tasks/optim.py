"""Optimiser and schedule as the recipes state them: plain numbers in, timm's objects out."""

from dataclasses import dataclass
from typing import Any

from timm.optim import create_optimizer_v2, param_groups_layer_decay, param_groups_weight_decay
from timm.scheduler import CosineLRScheduler
from torch import nn
from torch.optim import Optimizer

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
    """Cosine after a linear warm-up, stepped every iteration; the whole length is that of the training.

    Args:
        warmup_epochs: length of the warm-up.
        warmup_lr: where the warm-up begins.
        min_lr: where the cosine ends. Neither this nor `warmup_lr` is scaled with the batch.
    """

    warmup_epochs: float = 5.0
    warmup_lr: float = 0.0
    min_lr: float = 1e-5


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
) -> CosineLRScheduler:
    """timm's cosine over `steps_per_epoch * epochs` updates, of which the warm-up takes the first."""
    total, warmup = round(steps_per_epoch * epochs), round(steps_per_epoch * config.warmup_epochs)
    if total < 1:
        raise ValueError(f"A schedule needs at least one step, got {steps_per_epoch} steps an epoch, {epochs} epochs.")
    if warmup >= total:
        raise ValueError(
            f"The warm-up takes {config.warmup_epochs:g} epochs and the whole training {epochs:g}: "
            "set schedule.warmup_epochs below trainer.max_epochs."
        )
    return CosineLRScheduler(
        optimizer,
        t_initial=total - warmup,
        lr_min=config.min_lr,
        warmup_t=warmup,
        warmup_lr_init=config.warmup_lr,
        warmup_prefix=True,
        t_in_epochs=False,
    )
