"""Optimizer and schedule: parameter groups, weight decay and learning rates of the published recipe."""

import itertools
import math

import pytest
import timm
import torch

from glmix.tasks import OptimizerConfig, ScheduleConfig, build_optimizer, build_schedule

PER_EPOCH = 625  # 1.28 million images in batches of 2048


def model(name: str = "test_glnet", **kwargs: object) -> torch.nn.Module:
    return timm.create_model(name, **kwargs)


def decayed(net: torch.nn.Module, optimizer: torch.optim.Optimizer) -> set[str]:
    names = {id(p): name for name, p in net.named_parameters()}
    return {names[id(p)] for group in optimizer.param_groups if group["weight_decay"] for p in group["params"]}


@pytest.mark.parametrize("epochs", [300, 310])
def test_published_schedule(epochs: int) -> None:
    optimizer = build_optimizer(model(), OptimizerConfig(), global_batch=2048)
    schedule = build_schedule(optimizer, ScheduleConfig(), PER_EPOCH, epochs)

    def lr(step: float) -> float:
        schedule.step_update(round(step))
        (found,) = {group["lr"] for group in optimizer.param_groups}
        return found

    assert optimizer.param_groups[0]["lr"] == 0
    assert lr(PER_EPOCH) == pytest.approx(2e-3 / 5)
    assert lr(2.5 * PER_EPOCH) == pytest.approx(1e-3, rel=1e-3)
    assert lr(5 * PER_EPOCH) == pytest.approx(2e-3)
    for epoch in (6, 50, 152.5, 299):
        angle = math.pi * (round(epoch * PER_EPOCH) / PER_EPOCH - 5) / (epochs - 5)
        assert lr(epoch * PER_EPOCH) == pytest.approx(1e-5 + (2e-3 - 1e-5) * (1 + math.cos(angle)) / 2, rel=1e-6)
    assert lr(epochs * PER_EPOCH) == pytest.approx(1e-5)
    assert lr(100) != lr(101)  # updated every iteration, not every epoch


@pytest.mark.parametrize(("batch", "lr"), [(2048, 2e-3), (1024, 1e-3), (4096, 4e-3)])
def test_learning_rate_scales_with_the_effective_batch_size(batch: int, lr: float) -> None:
    assert build_optimizer(model(), OptimizerConfig(), batch).param_groups[0]["lr"] == pytest.approx(lr)
    fixed = build_optimizer(model(), OptimizerConfig(base_batch=None), batch)
    assert fixed.param_groups[0]["lr"] == 2e-3


@pytest.mark.parametrize("name", ["glnet_stl_paramslot", "glnet_4g", "glnet_16g"])
def test_weight_decay_groups(name: str) -> None:
    net = model(name, device="meta")
    optimizer = build_optimizer(net, OptimizerConfig(), 2048)
    assert isinstance(optimizer, torch.optim.AdamW)
    assert {group["weight_decay"] for group in optimizer.param_groups} == {0.0, 0.05}
    everything = dict(net.named_parameters())
    assert sum(len(group["params"]) for group in optimizer.param_groups) == len(everything)
    free = everything.keys() - decayed(net, optimizer)
    assert {n for n, p in everything.items() if p.ndim == 1} <= free  # norms, biases, layer scales, slot scales
    assert {n for n in everything if n.endswith(("bridge.scale", "bridge.seeds", ".gamma"))} <= free
    assert all(everything[n].ndim == 1 or n.endswith("bridge.seeds") for n in free)


def test_official_weight_decay_includes_slot_scales_and_seeds() -> None:
    net = model(layer_scale=1e-4, seeds="learned")
    ours = decayed(net, build_optimizer(net, OptimizerConfig(), 2048))
    for layer_decay in (None, 0.8):
        config = OptimizerConfig(official_weight_decay=True, layer_decay=layer_decay)
        theirs = decayed(net, build_optimizer(net, config, 2048))
        assert theirs - ours == {n for n, _ in net.named_parameters() if n.endswith(("bridge.scale", "bridge.seeds"))}


def test_layer_decay() -> None:
    net = model()
    optimizer = build_optimizer(net, OptimizerConfig(layer_decay=0.8), 2048)
    schedule = build_schedule(optimizer, ScheduleConfig(warmup_epochs=0), 10, 10)
    schedule.step_update(0)
    names = {id(p): name for name, p in net.named_parameters()}
    lrs = {names[id(p)]: group["lr"] for group in optimizer.param_groups for p in group["params"]}
    assert lrs["head.fc.weight"] == pytest.approx(2e-3)
    assert lrs["stem.layers.conv1.weight"] == min(lrs.values())
    steps = sorted(set(lrs.values()))
    assert all(b / a == pytest.approx(1 / 0.8) for a, b in itertools.pairwise(steps))


def test_invalid_schedules_are_errors() -> None:
    optimizer = build_optimizer(model(), OptimizerConfig(), 2048)
    with pytest.raises(ValueError, match=r"warm-up takes 5 epochs.* 3 epochs of 10 steps"):
        build_schedule(optimizer, ScheduleConfig(), 10, 3)
    with pytest.raises(ValueError, match="warm-up takes 30 steps"):
        build_schedule(optimizer, ScheduleConfig(warmup_steps=30), 10, 3)
    with pytest.raises(ValueError, match=r"schedule\.milestones .*\(8, 11\).*'cosine'"):
        ScheduleConfig(milestones=(8, 11))
    with pytest.raises(ValueError, match="milestones"):
        ScheduleConfig("step")


def rates(config: ScheduleConfig, epochs: int) -> list[float]:
    """Return the learning rates of all steps, with ten steps per epoch."""
    optimizer = build_optimizer(model(), OptimizerConfig(lr=1.0, base_batch=None), 1)
    schedule = build_schedule(optimizer, config, 10, epochs)
    found = []
    for step in range(10 * epochs):
        schedule.step_update(step)
        found.append(optimizer.param_groups[0]["lr"])
    return found


def test_step_schedule_decays_at_its_milestones_with_warm_up() -> None:
    found = rates(ScheduleConfig("step", warmup_steps=5, warmup_lr=0.001, milestones=(8, 11)), 12)
    assert found[:2] == pytest.approx([0.001, 0.2008])
    assert found[5:80] == pytest.approx([1.0] * 75)
    assert found[80:110] == pytest.approx([0.1] * 30)
    assert found[110:] == pytest.approx([0.01] * 10)


def test_poly_schedule_of_power_one_is_linear_after_the_warm_up() -> None:
    found = rates(ScheduleConfig("poly", warmup_steps=20, min_lr=0.0), 10)
    assert found[10] == pytest.approx(0.5)
    assert found[20:] == pytest.approx([1 - t / 80 for t in range(80)])


@pytest.mark.parametrize("name", ["adamw", "sgd", "lamb"])
def test_a_fused_optimizer_takes_the_same_steps_and_allows_clipping(name: str) -> None:
    found = []
    for fused in (False, True):
        torch.manual_seed(0)
        net = torch.nn.Linear(8, 8)
        optimizer = build_optimizer(net, OptimizerConfig(name=name, base_batch=None, lr=1e-2), 1, fused=fused)
        assert bool(optimizer.defaults.get("fused")) == (fused and name != "lamb")
        assert not getattr(optimizer, "_step_supports_amp_scaling", False)
        for _ in range(3):
            net(torch.ones(2, 8)).square().sum().backward()
            optimizer.step()
            optimizer.zero_grad()
        found.append(net.weight.detach())
    torch.testing.assert_close(found[1], found[0], rtol=1e-5, atol=1e-6)
