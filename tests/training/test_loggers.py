"""Loggers by name. Those of Weights & Biases and MLflow run if their packages are installed."""

import time
from contextlib import ExitStack
from pathlib import Path

import pytest

from glmix.errors import InputError, MissingExtraError
from glmix.training.loggers import make_loggers
from glmix_cli import main
from tests.runs import write_config


@pytest.fixture
def command(tmp_path: Path) -> list[str]:
    config = write_config(
        tmp_path / "c.yaml",
        tmp_path / "run",
        logger=None,
        max_epochs=1,
        limit_train_batches=2,
        limit_val_batches=1,
        log_every_n_steps=1,
    )
    return ["fit", "--config", str(config), "--model.schedule.warmup_epochs", "0"]


def test_loggers_are_chosen_by_name(command: list[str], tmp_path: Path) -> None:
    assert main([*command, "--logger", "csv"]) == 0
    assert [folder.name for folder in (tmp_path / "run" / "logs").iterdir()] == ["csv"]


def test_unknown_name_is_an_error_that_suggests_another(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"'tensorbord'.*'tensorboard'.*csv, tensorboard, wandb, mlflow"):
        make_loggers(["tensorbord"], tmp_path, ExitStack())


def test_missing_package_is_named_with_its_pip_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match="pip install mlflow"):
        make_loggers(["mlflow"], tmp_path, ExitStack())


def test_mlflow_continues_its_run(command: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mlflow = pytest.importorskip("mlflow")
    pytest.importorskip("sqlalchemy")  # mlflow has it, mlflow-skinny does not
    store = f"sqlite:///{tmp_path / 'run' / 'logs' / 'mlflow.db'}"
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    for epochs in ("1", "2"):
        assert main([*command, "--logger", "csv,mlflow", "--trainer.max_epochs", epochs]) == 0
    client = mlflow.MlflowClient(store)
    (run,) = client.search_runs([experiment.experiment_id for experiment in client.search_experiments()])
    assert run.info.status == "FINISHED"
    assert run.data.params["model/init_args/model"] == "test_glnet"
    assert [metric.step for metric in client.get_metric_history(run.info.run_id, "val/top1")] == [1, 3]


def test_wandb_writes_an_offline_run(command: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wandb = pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    assert main([*command, "--logger", "wandb"]) == 0
    assert wandb.run is None  # it is finished, so that another training of this process starts another run
    logs = tmp_path / "run" / "logs"
    (folder,) = (logs / "wandb").glob("offline-run-*")
    name = (logs / "wandb-id").read_text()
    assert folder.name.endswith(name)
    deadline = time.monotonic() + 20  # a process of wandb writes the file
    while b"val/top1" not in (folder / f"run-{name}.wandb").read_bytes():
        assert time.monotonic() < deadline
        time.sleep(0.1)
