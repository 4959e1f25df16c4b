"""`glmix fit | validate | test`: what they accept, and what they say."""

import re
from pathlib import Path

import pytest
import torch

from glmix_cli.fit import main

from .runs import write_config


def fit(config: Path, *args: str) -> int:
    return main(["fit", "--config", str(config), *args])


@pytest.fixture
def config(tmp_path: Path) -> Path:
    return write_config(tmp_path / "c.yaml", tmp_path / "run", max_epochs=2, limit_train_batches=2)


@pytest.mark.parametrize(
    ("option", "value", "answer"),
    [
        ("model.smoothin", "0.2", "Classification has no key 'smoothin'. Did you mean 'smoothing'?"),
        ("model.optimizer.lrr", "0.2", "OptimizerConfig has no key 'lrr'. Did you mean 'lr'?"),
        ("model.optimizer.lr", "abc", "lr: Expected a <class 'float'>. Got value: abc"),
        ("data.batch_sise", "3", "ScenesData has no key 'batch_sise'. Did you mean 'batch_size'?"),
        ("data.scenes.sise", "3", "SceneConfig has no key 'sise'. Did you mean 'size'?"),
        ("trainer.max_epoks", "3", "There is no key 'trainer.max_epoks'. Did you mean 'trainer.max_epochs'?"),
        ("resume", "nowhere.ckpt", "--resume takes 'auto', 'never' or a .ckpt file; there is no file 'nowhere.ckpt'."),
    ],
)
def test_what_is_wrong_is_said(config: Path, option: str, value: str, answer: str) -> None:
    with pytest.raises(ValueError, match=re.escape(answer)):
        fit(config, f"--{option}", value)


def test_unknown_key_in_yaml(config: Path, tmp_path: Path) -> None:
    more = tmp_path / "more.yaml"
    more.write_text("model:\n  class_path: Classification\n  init_args: {mix: {mixupp: 0.8}}\n")
    with pytest.raises(ValueError, match=r"MixConfig has no key 'mixupp'\. Did you mean 'mixup'"):
        fit(config, "--config", str(more))


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_cuda_where_there_is_none(config: Path) -> None:
    with pytest.raises(ValueError, match=r"trainer\.accelerator is 'gpu', but torch .* finds no CUDA device here"):
        fit(config, "--trainer.accelerator", "gpu")


def test_fit_continues_validates_and_tests(config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ValueError, match="There are no weights"):
        main(["validate", "--config", str(config)])
    assert fit(config, "--trainer.max_steps", "2", "--model.schedule.warmup_epochs", "0") == 0
    assert "epoch 1/" in capsys.readouterr().err
    assert fit(config) == 0
    assert "Continues from" in capsys.readouterr().err
    assert fit(config) == 0
    assert "is finished" in capsys.readouterr().err
    with pytest.raises(ValueError, match="holds a run already"):
        fit(config, "--resume", "never")
    assert main(["validate", "--config", str(config)]) == 0
    captured = capsys.readouterr()
    assert "best.ckpt" in captured.err
    assert "val/top1_ema" in captured.out
    newest = str(max((tmp_path / "run" / "checkpoints").glob("step-*.ckpt")))
    assert main(["test", "--config", str(config), "--weights", newest, "--data.test_count", "5"]) == 0
    assert "test/top1" in capsys.readouterr().out
