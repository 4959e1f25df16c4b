"""The learning rate range test."""

from pathlib import Path

import numpy as np
import pytest

from glmix.errors import InputError
from glmix.training.lr_finder import steepest_rate
from glmix_cli import main
from tests.runs import write_config


def test_steepest_descent_per_factor_of_the_rate() -> None:
    rates = np.geomspace(1e-7, 1, 100)
    noise = 1e-3 * np.random.default_rng(0).standard_normal(100)
    losses = 2 - 1 / (1 + np.exp(-3 * np.log10(rates / 1e-3))) + noise  # falls fastest at 1e-3
    assert steepest_rate(list(rates), list(losses)) == pytest.approx(1e-3, rel=0.5)
    with pytest.raises(InputError, match="did not fall in the 100 steps"):
        steepest_rate(list(rates), list(rates))


def test_the_command_prints_an_option_and_leaves_no_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = tmp_path / "run"
    config = write_config(tmp_path / "c.yaml", root, limit_train_batches=2)
    command = ["fit", "--config", str(config), "--model.optimizer.base_batch", "16", "--data.batch_size", "8"]
    assert main([*command, "--find_lr", "true"]) == 0
    option, value = capsys.readouterr().out.split()
    assert option == "--model.optimizer.lr"
    assert 1e-6 < float(value) < 2
    assert [file.name for file in root.iterdir()] == ["lr_find.png"]
