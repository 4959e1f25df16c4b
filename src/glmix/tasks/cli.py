"""`glmix fit | validate | test`: Lightning's command line over typed YAML, with this house's checks and defaults."""

import logging
import sys
import warnings
from argparse import ArgumentError
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning.pytorch as L
import torch
from jsonargparse import ActionConfigFile
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI, SaveConfigCallback
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from ..configs import find_config

# these so that YAML can name their classes without a path
from ..data import modules  # noqa: F401
from ..data.coco import modules as coco_modules  # noqa: F401
from ..data.masks import modules as mask_modules  # noqa: F401
from ..errors import InputError
from . import classification, detection, segmentation, token_label  # noqa: F401
from .base import Task
from .checkpoint_io import AtomicCheckpointIO, newest_whole
from .checkpoints import Checkpoints
from .messages import explain
from .progress import progress
from .sync_norm import SyncNorm

__all__ = ["CLI", "quieten", "run"]

COMMANDS = ("fit", "validate", "test")


class ConfigFile(ActionConfigFile):
    """`--config`, which takes the name of a shipped recipe where there is no such file."""

    def __call__(self, parser: Any, cfg: Any, values: Any, option_string: str | None = None) -> None:
        if ":" not in values:  # else it is YAML itself, which jsonargparse takes in place of a file
            values = str(find_config(values))
        super().__call__(parser, cfg, values, option_string)


class CLI(LightningCLI):
    """Tasks and data modules from YAML; the same command again continues where its run stopped."""

    def __init__(self, argv: Sequence[str]) -> None:
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
                help="`auto`: those of model.checkpoint where it is given, else the best checkpoint of "
                "trainer.default_root_dir; or a .ckpt file",
            )
        return parser

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        parser.add_lightning_class_args(Checkpoints, "checkpoints")

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        try:
            self.config = parser.parse_args(args)
        except ArgumentError as error:
            chosen = self._subcommand_parsers.get(args[0], parser)
            raise InputError(explain(str(error), [action.dest for action in chosen._actions])) from error

    def before_instantiate_classes(self) -> None:
        trainer = self._get(self.config, "trainer")
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
        config = self._get(self.config_init, "trainer")
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

    def _prepare_subcommand_kwargs(self, subcommand: str) -> dict[str, Any]:
        kwargs = super()._prepare_subcommand_kwargs(subcommand)
        config = self.config[subcommand]
        root = Path(config["trainer"]["default_root_dir"])
        path = _resume(root, config["resume"]) if subcommand == "fit" else _weights(root, config["weights"], self.model)
        kwargs["ckpt_path"] = str(path) if path is not None else None
        if path is not None and self.trainer.is_global_zero:
            sys.stderr.write(f"{'Continues from' if subcommand == 'fit' else 'Weights of'} {path}\n")
        return kwargs

    def after_fit(self) -> None:
        """Say so where there was nothing left to do."""
        checkpoints = next(c for c in self.trainer.checkpoint_callbacks if isinstance(c, Checkpoints))
        if not checkpoints.began and self.trainer.is_global_zero:
            sys.stderr.write(
                f"The run in {self.trainer.default_root_dir} is finished. A larger trainer.max_epochs makes it longer, "
                "another trainer.default_root_dir begins a new one.\n"
            )


def _as_list(value: Any) -> list[Any]:
    return [] if value is None else list(value) if isinstance(value, list | tuple) else [value]


def _resume(root: Path, how: str) -> Path | None:
    """The checkpoint to continue from."""
    folder = Checkpoints.folder(root)
    if how == "auto":
        return newest_whole(folder)
    if how == "never":
        if newest_whole(folder) is not None:
            raise InputError(
                f"{root} holds a run already. Leave out --resume never to continue it, or give another "
                "--trainer.default_root_dir."
            )
        return None
    if not Path(how).is_file():
        raise InputError(f"--resume takes 'auto', 'never' or a .ckpt file; there is no file {how!r}.")
    return Path(how)


def _weights(root: Path, which: str, model: Task) -> Path | None:
    """The checkpoint to evaluate; None for what the model began with."""
    if which != "auto":
        if not Path(which).is_file():
            raise InputError(f"--weights takes 'auto' or a .ckpt file; there is no file {which!r}.")
        return Path(which)
    if model.checkpoint is not None:
        return None
    folder = Checkpoints.folder(root)
    found = folder / "best.ckpt" if (folder / "best.ckpt").is_file() else newest_whole(folder)
    if found is None:
        raise InputError(
            f"There are no weights: {folder} has no checkpoint. Give --weights or --model.checkpoint FILE."
        )
    return found


def run(argv: Sequence[str]) -> None:
    """Carry out `fit`, `validate` or `test` with the arguments behind it."""
    quieten()
    try:
        CLI(argv)
    except MisconfigurationException as error:
        raise InputError(str(error)) from error


def quieten() -> None:
    """Lightning's advice and its account of the machine say nothing about a training."""
    for name in ("utilities.rank_zero", "trainer.connectors.checkpoint_connector"):
        logging.getLogger(f"lightning.pytorch.{name}").setLevel(logging.WARNING)
    for message in (
        ".*does not have many workers.*",
        ".*smaller than the logging interval.*",
        ".*in eval mode at the start of training.*",  # the average is
        ".*set_vital.*",
        ".*sync_dist=True.*",  # the metrics synchronise themselves
        ".*LeafSpec.*",
    ):
        warnings.filterwarnings("ignore", message=message)
