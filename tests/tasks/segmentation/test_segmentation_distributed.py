"""Two processes equal one: synchronised BatchNorm, and metrics over an uneven number of validation images."""

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from tests.runs import start, together, weights
from tests.training.test_distributed import metrics


def config(path: Path, batch: int, devices: int, **trainer: Any) -> str:
    """Write a configuration without randomness in the model and with SGD, so that results differ only by rounding."""
    model = {
        "model": "test_glnet",
        "model_args": {"depths": [1, 1, 1, 1]},
        "decoder": "upernet",
        "decoder_args": {"decoder_channels": 16},
        "optimizer": {"name": "sgd", "lr": 0.02, "base_batch": None},
        "schedule": {"warmup_epochs": 1},
    }
    data = {
        "scenes": {"size": 64, "shapes": ["disc"]},
        "train_count": 16,
        "val_count": 5,
        "batch_size": batch,
        "eval_batch_size": 2,
    }
    settings = {"max_epochs": 2, "devices": devices, "default_root_dir": str(path), "accelerator": "cpu"}
    path.mkdir()
    file = path / "config.yaml"
    file.write_text(
        yaml.safe_dump(
            {
                "model": {"class_path": "Segmentation", "init_args": model},
                "data": {"class_path": "SceneMaskData", "init_args": data},
                "trainer": {**settings, "gradient_clip_val": 5.0, **trainer},
            }
        )
    )
    return str(file)


@pytest.mark.slow
def test_two_processes_equal_one(tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    process = start("fit", "--config", config(one, 8, 1))
    together(2, "fit", "--config", config(two, 4, 2, strategy="ddp", sync_batchnorm=True))
    output, _ = process.communicate(timeout=240)
    assert process.returncode == 0, output
    alone, shared = weights(one), weights(two)
    assert alone.keys() == shared.keys()
    for name, tensor in alone.items():
        assert torch.allclose(shared[name], tensor, atol=5e-4, rtol=2e-3), name
    a, b = metrics(one), metrics(two)
    for name in ("val/mIoU", "val/pixel_accuracy", "val/loss"):
        assert b[name] == pytest.approx(a[name], abs=3e-3), name
