"""`glmix fit | validate | test`: Lightning's command line over typed YAML, with this house's checks and defaults."""

import os
import sys
from argparse import ArgumentError
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import lightning.pytorch as L
import torch
from jsonargparse import ActionConfigFile
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI, SaveConfigCallback
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from lightning.pytorch.utilities import rank_zero_warn
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from ..compat import option_names, subcommand_parser
from ..configs import find_config

# these so that YAML can name their classes without a path
from ..data.classification import datamodule as modules  # noqa: F401
from ..data.detection import datamodule as coco_modules  # noqa: F401
from ..data.segmentation import datamodule as mask_modules  # noqa: F401
from ..errors import InputError
from ..training.checkpoint_io import AtomicCheckpointIO
from ..training.checkpoints import Checkpoints
from ..training.config_errors import cause_of, explain, misplaced_null
from ..training.process import ends_as_signals_ask, quiet, restore_process_state
from ..training.progress import progress
from ..training.run_folder import checkpoint_to_resume, lock_run_folder, weights_to_measure
from ..training.sync_norm import SyncNorm
from ..training.task import Task
from . import detection, segmentation  # noqa: F401
from .classification import task as classification  # noqa: F401
from .token_labelling import task as token_label  # noqa: F401

__all__ = ["CLI", "run"]

COMMANDS = ("fit", "validate", "test")


class ConfigFile(ActionConfigFile):
    """`--config`, which takes the name of a shipped recipe where there is no such file."""

    def __call__(self, parser: Any, cfg: Any, values: Any, option_string: str | None = None) -> None:
        if ":" not in values:  # else it is YAML itself, which jsonargparse takes in place of a file
            values = str(find_config(values))
        super().__call__(parser, cfg, values, option_string)


class Parser(LightningArgumentParser):
    """Reads `null` at any depth: jsonargparse passes nested options on as text, in which it writes None for null."""

    def parse_args(self, args: Any = None, *positional: Any, **named: Any) -> Any:
        if args is not None:
            args = [f"{arg.removesuffix('None')}null" if arg.endswith("=None") else arg for arg in args]
        return super().parse_args(args, *positional, **named)


class CLI(LightningCLI):
    """Tasks and data modules from YAML; the same command again continues where its run stopped.

    Args:
        argv: the command and its options.
        resources: what is released when the command ends; the lock of the run's folder is put there.
    """

    def __init__(self, argv: Sequence[str], resources: ExitStack) -> None:
        self.resources = resources
        super().__init__(
            Task,
            L.LightningDataModule,
            subclass_mode_model=True,
            subclass_mode_data=True,
            save_config_callback=SaveConfigCallback,
            save_config_kwargs={"overwrite": True},
            seed_everything_default=False,
            trainer_defaults={"use_distributed_sampler": False},
            parser_kwargs={name: {"exit_on_error": False, "prog": f"glmix {name}"} for name in COMMANDS}
            | {"exit_on_error": False, "prog": "glmix"},
            parser_class=Parser,
            auto_configure_optimizers=False,
            args=list(argv),
        )

    def init_parser(self, **kwargs: Any) -> LightningArgumentParser:
        parser = self.parser_class(dump_header=[f"lightning.pytorch=={L.__version__}"], **kwargs)
        parser.add_argument("-c", "--config", action=ConfigFile, help="a YAML file, or the name of a shipped recipe")
        return parser

    @staticmethod
    def subcommands() -> dict[str, set[str]]:
        hidden = {"model", "datamodule", "ckpt_path", "weights_only", "verbose"}
        return {
            "fit": hidden | {"train_dataloaders", "val_dataloaders"},
            "validate": hidden | {"dataloaders"},
            "test": hidden | {"dataloaders"},
        }

    # private, because add_arguments_to_parser does not know the subcommand
    def _prepare_subcommand_parser(self, klass: type, subcommand: str, **kwargs: Any) -> LightningArgumentParser:
        parser = super()._prepare_subcommand_parser(klass, subcommand, **kwargs)
        if subcommand == "fit":
            parser.add_argument(
                "--resume",
                type=str,
                default="auto",
                help="`auto`: continue from the newest whole checkpoint of trainer.default_root_dir, or begin if there "
                "is none; `never`: begin, where there must be none; or a .ckpt file",
            )
        else:
            parser.add_argument(
                "--weights",
                type=str,
                default="auto",
                help="`auto`: the best checkpoint of trainer.default_root_dir; or a .ckpt file, or for a classifier an "
                "authors' file or safetensors",
            )
        return parser

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        parser.add_lightning_class_args(Checkpoints, "checkpoints")

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        try:
            self.config = parser.parse_args(args)
        except ArgumentError as error:
            chosen = subcommand_parser(self, args[0], parser)
            raise InputError(explain(str(error), option_names(chosen))) from error
        for part in ("model", "data"):
            wrong = misplaced_null(self.config[self.config["subcommand"]][part], part)
            if wrong is not None:
                raise InputError(wrong)

    def instantiate_classes(self) -> None:
        try:
            super().instantiate_classes()
        except ValueError as error:
            cause = cause_of(error)
            if cause is None:
                raise
            raise cause from error

    def before_instantiate_classes(self) -> None:
        trainer = self.config[self.subcommand]["trainer"]
        asked = trainer.accelerator
        if asked in ("gpu", "cuda") and not torch.cuda.is_available():
            raise InputError(
                f"trainer.accelerator is {asked!r}, but torch {torch.__version__} finds no CUDA device here. Set it to "
                "'auto' or 'cpu', or install a torch with CUDA and check nvidia-smi."
            )
        if trainer.default_root_dir is None:
            trainer.default_root_dir = "out/run"
        if trainer.precision is None:
            on_gpu = asked in ("auto", "gpu", "cuda") and torch.cuda.is_available()
            trainer.precision = "bf16-mixed" if on_gpu and torch.cuda.is_bf16_supported() else "32-true"

    def instantiate_trainer(self, **kwargs: Any) -> L.Trainer:
        config = self.config_init[self.subcommand]["trainer"]
        root, logger = config["default_root_dir"], config["logger"]
        if logger in (None, True) and self.subcommand == "fit" and not config["fast_dev_run"]:
            kwargs["logger"] = [CSVLogger(root, "logs/csv"), TensorBoardLogger(root, "logs/tensorboard")]
        elif logger in (None, True):
            kwargs["logger"] = False
        kwargs["plugins"] = [*_as_list(config["plugins"]), AtomicCheckpointIO()]
        if config["sync_batchnorm"]:
            kwargs["plugins"].append(SyncNorm())
            kwargs["sync_batchnorm"] = False  # Lightning takes the plugin or the flag, not both
        if config["enable_progress_bar"] is not False:
            bar = progress()
            kwargs["callbacks"] = [*_as_list(config["callbacks"]), bar]
            kwargs["enable_progress_bar"] = isinstance(bar, L.callbacks.ProgressBar)
        if config["enable_model_summary"] is None:
            kwargs["enable_model_summary"] = False
        return super().instantiate_trainer(**kwargs)

    # private, because no public method sets ckpt_path after the trainer is built
    def _prepare_subcommand_kwargs(self, subcommand: str) -> dict[str, Any]:
        kwargs = super()._prepare_subcommand_kwargs(subcommand)
        config = self.config[subcommand]
        root = Path(config["trainer"]["default_root_dir"])
        _check_workers(self.datamodule)
        if subcommand == "fit":
            if self.trainer.is_global_zero:  # under torchrun, each process of a training is a command of its own
                self.resources.enter_context(lock_run_folder(root))
            path = checkpoint_to_resume(root, config["resume"], self.model)
            message = f"Continues from {path}"
        else:
            path = weights_to_measure(root, config["weights"], self.model)
            message = self._measures(subcommand, path)
        if path is not None:
            kwargs["ckpt_path"] = str(path) if path.suffix == ".ckpt" else None
            self.model.checkpoint = None if path.suffix == ".ckpt" else str(path)
            if self.trainer.is_global_zero:
                sys.stderr.write(f"{message}\n")
        return kwargs

    def _measures(self, subcommand: str, path: Path) -> str:
        """Say which weights are measured, and what their metrics are called."""
        if path.suffix != ".ckpt":
            self.model.ema_decay = None  # such a file gives one set of weights
            return f"Measures the weights of {path}"
        if self.model.ema_decay is None:
            return f"Measures the raw weights of {path}"
        prefix = {"validate": "val", "test": "test"}[subcommand]
        return f"Measures {path}: {prefix}/NAME are the raw weights, {prefix}/NAME_ema the averaged ones"

    def after_fit(self) -> None:
        """Say so where there was nothing left to do."""
        checkpoints = next(c for c in self.trainer.checkpoint_callbacks if isinstance(c, Checkpoints))
        if not checkpoints.began and self.trainer.is_global_zero:
            sys.stderr.write(
                f"The run in {self.trainer.default_root_dir} is finished. A larger trainer.max_epochs makes it longer, "
                "another trainer.default_root_dir begins a new one.\n"
            )


def _check_workers(data: L.LightningDataModule) -> None:
    """Warn once where torch would for each loader."""
    workers = getattr(data, "num_workers", 0)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if workers > cores:
        rank_zero_warn(
            f"data.num_workers is {workers}, but this process may use only {cores} CPU cores: more workers than cores "
            "slow the loading down."
        )


def _as_list(value: Any) -> list[Any]:
    return [] if value is None else list(value) if isinstance(value, list | tuple) else [value]


def run(argv: Sequence[str]) -> None:
    """Carry out `fit`, `validate` or `test` with the arguments behind it, and leave the process as it was.

    Raises:
        Preempted: if a signal ended the training; it is saved.
        KeyboardInterrupt: after Ctrl-C where there is nothing to save, or after a second one.
        InputError: if the configuration or the data are wrong.
    """
    with restore_process_state(), quiet(), ExitStack() as resources, ends_as_signals_ask():
        try:
            CLI(argv, resources)
        except MisconfigurationException as error:
            raise InputError(str(error)) from error
