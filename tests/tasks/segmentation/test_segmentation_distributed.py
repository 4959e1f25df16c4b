"""Two processes equal one: synchronised BatchNorm, and metrics over an uneven number of validation images."""

from pathlib import Path

import pytest

from tests.training.test_distributed import SGD, train_in_one_and_two_processes

MODEL = {
    "class_path": "Segmentation",
    "init_args": {
        "model": "test_glnet",
        "model_args": {"depths": [1, 1, 1, 1]},
        "decoder": "upernet",
        "decoder_args": {"decoder_channels": 16},
        **SGD,
    },
}
DATA = {
    "class_path": "SceneMaskData",
    "init_args": {"scenes": {"size": 64, "shapes": ["disc"]}, "train_count": 16, "val_count": 5},
}


@pytest.mark.slow
def test_two_processes_equal_one(tmp_path: Path) -> None:
    a, b = train_in_one_and_two_processes(tmp_path, atol=5e-4, rtol=2e-3, model=MODEL, data=DATA)
    for name in ("val/mIoU", "val/pixel_accuracy", "val/loss"):
        assert b[name] == pytest.approx(a[name], abs=3e-3), name
