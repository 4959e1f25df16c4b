"""Distributed training: two processes give the same results as one."""

import csv
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from glmix.tasks import load_trained
from glmix.training.sync_norm import SharedBatchNorm2d, SyncNorm
from tests.runs import CONFIG, start, together, weights

# SGD: Adam would turn rounding errors in zero gradients, such as those of biases before a BatchNorm, into steps of
# full size. The nine validation images do not divide evenly among processes.
SGD = {"optimizer": {"name": "sgd", "lr": 0.02, "base_batch": None}, "schedule": {"warmup_epochs": 1}}
MODEL = {"class_path": "Classification", "init_args": {"model": "test_glnet", "ema_decay": 0.9, **SGD}}
DATA = {**CONFIG["data"], "init_args": {**CONFIG["data"]["init_args"], "train_count": 24, "val_count": 9}}


def config(
    path: Path, batch: int, devices: int, model: dict[str, Any] = MODEL, data: dict[str, Any] = DATA, **trainer: Any
) -> str:
    """Write a configuration without randomness in the model and return its path."""
    path.mkdir()
    settings = {"max_epochs": 2, "devices": devices, "default_root_dir": str(path), "accelerator": "cpu"}
    contents = {
        "model": model,
        "data": {**data, "init_args": {**data["init_args"], "batch_size": batch, "eval_batch_size": 2}},
        "trainer": {**settings, "gradient_clip_val": 5.0, **trainer},
    }
    file = path / "config.yaml"
    file.write_text(yaml.safe_dump(contents))
    return str(file)


def metrics(root: Path) -> dict[str, float]:
    with (root / "logs" / "csv" / "version_0" / "metrics.csv").open() as file:
        return {name: float(value) for row in csv.DictReader(file) for name, value in row.items() if value}


def train_in_one_and_two_processes(
    folder: Path, atol: float, rtol: float, **parts: dict[str, Any]
) -> tuple[dict[str, float], dict[str, float]]:
    """Train with the same global batch in one process and in two, compare the weights and return both metrics."""
    one, two = folder / "one", folder / "two"
    process = start("fit", "--config", config(one, 8, 1, **parts))
    together(2, "fit", "--config", config(two, 4, 2, **parts, strategy="ddp", sync_batchnorm=True))
    output, _ = process.communicate(timeout=240)
    assert process.returncode == 0, output
    alone, shared = weights(one), weights(two)
    assert alone.keys() == shared.keys()
    for name, tensor in alone.items():
        assert torch.allclose(shared[name], tensor, atol=atol, rtol=rtol), name
    return metrics(one), metrics(two)


def test_two_processes_equal_one(tmp_path: Path) -> None:
    a, b = train_in_one_and_two_processes(tmp_path, atol=2e-4, rtol=1e-3)
    scores = [name for name in a if name.startswith("val/")]
    assert {"val/top1", "val/top1_ema", "val/loss"} <= set(scores)
    for name in scores:
        assert b[name] == pytest.approx(a[name], abs=1e-3), name
    # a multiple of 1/9: each of the nine images counts once
    assert a["val/top5"] * 9 == pytest.approx(round(a["val/top5"] * 9), abs=1e-4)


@pytest.mark.slow
def test_fsdp2_checkpoint_loads_in_one_process(tmp_path: Path) -> None:
    strategy = {
        "class_path": "lightning.pytorch.strategies.ModelParallelStrategy",
        "init_args": {"data_parallel_size": 2, "tensor_parallel_size": 1, "save_distributed_checkpoint": False},
    }
    root = tmp_path / "two"
    together(2, "fit", "--config", config(root, 4, 2, strategy=strategy, limit_train_batches=1, gradient_clip_val=None))
    newest = max((root / "checkpoints").glob("step-*.ckpt"))
    model = load_trained(newest, use_ema=False)
    assert torch.isfinite(model(torch.randn(1, 3, 32, 32))).all()


def test_shared_batch_norm_in_one_process_equals_batch_norm() -> None:
    net = torch.nn.Sequential(torch.nn.BatchNorm2d(3))
    x = torch.randn(4, 3, 5, 5)
    expected = net(x)
    net[0].__class__ = SharedBatchNorm2d
    assert torch.equal(net(x), expected)
    SyncNorm().revert(net)
    assert type(net[0]) is torch.nn.BatchNorm2d
