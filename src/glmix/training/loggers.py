"""Loggers by name: CSV, TensorBoard, Weights & Biases and MLflow."""

import importlib.util
import os
import secrets
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import CSVLogger, Logger, MLFlowLogger, TensorBoardLogger, WandbLogger
from lightning.pytorch.utilities import rank_zero_only

from ..errors import InputError, MissingExtraError, nearest
from ..files import write_atomically

__all__ = ["LOGGERS", "log_config", "make_loggers"]

LOGGERS = ("csv", "tensorboard", "wandb", "mlflow")
PROJECT = "glmix"  # project of Weights & Biases and experiment of MLflow
WANDB_ID, MLFLOW_ID = "wandb-id", "mlflow-id"  # files in `logs/` with the ids of the runs
_PACKAGES = {"wandb": ("wandb", "wandb"), "mlflow": ("mlflow", "mlflow")}  # {logger: (module, name for pip)}


def make_loggers(names: Sequence[str], root: Path, resources: ExitStack) -> list[Logger]:
    """Return loggers that write to `logs/` in the run folder, or to the server that their environment variables name.

    A resumed run continues its run of Weights & Biases and of MLflow, whose id is stored in `logs/`.

    Args:
        names: names from `LOGGERS`.
        root: run folder.
        resources: the run of Weights & Biases is finished when these are closed.

    Raises:
        InputError: if there is no such logger.
        MissingExtraError: if the package of a logger is not installed.
    """
    for name in names:
        if name not in LOGGERS:
            raise InputError(f"No logger is named {name!r}.{nearest(name, LOGGERS)} Accepted: {', '.join(LOGGERS)}.")
        module, package = _PACKAGES.get(name, ("lightning", "lightning"))
        if importlib.util.find_spec(module) is None:
            raise MissingExtraError(f"The logger {name} needs the package {module}: pip install {package}.")
    return [_make(name, root, resources) for name in dict.fromkeys(names)]


def _make(name: str, root: Path, resources: ExitStack) -> Logger:
    logs = root / "logs"
    logs.mkdir(parents=True, exist_ok=True)
    if name == "csv":
        return CSVLogger(root, "logs/csv")
    if name == "tensorboard":
        return TensorBoardLogger(root, "logs/tensorboard")
    if name == "wandb":
        resources.push(_finish_wandb)
        stored = logs / WANDB_ID
        if not stored.is_file() and rank_zero_only.rank == 0:  # type: ignore[attr-defined]
            write_atomically(stored, secrets.token_hex(4))
        project = os.environ.get("WANDB_PROJECT", PROJECT)
        return WandbLogger(name=root.name, save_dir=logs, project=project, id=_read(stored))
    return MLFlowLogger(
        experiment_name=os.environ.get("MLFLOW_EXPERIMENT_NAME", PROJECT),
        run_name=root.name,
        tracking_uri=os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{(logs / 'mlflow.db').resolve()}",
        run_id=_read(logs / MLFLOW_ID),
    )


def _read(path: Path) -> str | None:
    return path.read_text() if path.is_file() else None


def _finish_wandb(error: type[BaseException] | None, *more: Any) -> None:
    import wandb

    wandb.finish(exit_code=int(error is not None))


@rank_zero_only
def log_config(loggers: Sequence[Logger], config: dict[str, Any], root: Path) -> None:
    """Log the configuration of a run to Weights & Biases and to MLflow, and store the id of a new run of MLflow.

    Args:
        loggers: loggers of the trainer.
        config: the configuration.
        root: run folder.
    """
    for logger in loggers:
        if isinstance(logger, WandbLogger):
            logger.log_hyperparams(config)
        elif isinstance(logger, MLFlowLogger) and not (root / "logs" / MLFLOW_ID).is_file():
            logger.log_hyperparams(config)  # MLflow refuses to change it when the run is resumed
            write_atomically(root / "logs" / MLFLOW_ID, str(logger.run_id))
