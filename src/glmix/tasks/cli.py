"""`glmix fit | validate | test`: a LightningCLI with checks and defaults for this package."""

import os
import sys
import tempfile
from argparse import ArgumentError
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import lightning.pytorch as L
import torch
from jsonargparse import ActionConfigFile
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI, SaveConfigCallback
from lightning.pytorch.utilities import rank_zero_warn
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from ..compat import option_names, subcommand_parser
from ..configs import find_config

# imported so that YAML can name their classes without a module path
from ..data.classification import datamodule as modules  # noqa: F401
from ..data.detection import datamodule as coco_modules  # noqa: F401
from ..data.segmentation import datamodule as mask_modules  # noqa: F401
from ..errors import InputError
from ..reports.report import PAGE
from ..training.checkpoint_io import AtomicCheckpointIO
from ..training.checkpoints import Checkpoints
from ..training.config_errors import cause_of, explain, misplaced_null
from ..training.early_stopping import StopEarly
from ..training.loggers import LOGGERS, log_config, make_loggers
from ..training.lr_finder import find_lr
from ..training.process import quiet, restore_process_state, standard_signal_exceptions
from ..training.progress import progress
from ..training.run_folder import checkpoint_to_resume, lock_run_folder, weights_to_evaluate
from ..training.sync_norm import SyncNorm
from ..training.task import Task
from . import detection, segmentation  # noqa: F401
from .classification import task as classification  # noqa: F401
from .recording import Recorder
from .token_labelling import task as token_label  # noqa: F401

__all__ = ["CLI", "run"]

COMMANDS = ("fit", "validate", "test")


class ConfigFile(ActionConfigFile):
    """The action of `--config`: a YAML file, or the name of a shipped recipe if there is no such file."""

    def __call__(self, parser: Any, cfg: Any, values: Any, option_string: str | None = None) -> None:
        if ":" not in values:  # otherwise the value is YAML text, which jsonargparse also accepts
            values = str(find_config(values))
        super().__call__(parser, cfg, values, option_string)


class Parser(LightningArgumentParser):
    """A parser that accepts `null` at any depth.

    jsonargparse passes nested options on as text, with None instead of null.
    """

    def parse_args(self, args: Any = None, *more: Any, **options: Any) -> Any:
        if args is not None:
            args = [f"{arg.removesuffix('None')}null" if arg.endswith("=None") else arg for arg in args]
        return super().parse_args(args, *more, **options)


class CLI(LightningCLI):
    """Command line for tasks and data modules in YAML. Repeating a command resumes its run.

    Args:
        argv: the command and its options.
        resources: released when the command ends; the CLI adds the lock of the run folder.
        callbacks: further callbacks of the trainer.
    """

    def __init__(self, argv: Sequence[str], resources: ExitStack, callbacks: Sequence[L.Callback] = ()) -> None:
        self.resources = resources
        self.recorder: Recorder | None = None
        self.extra_callbacks = list(callbacks)
        self.stop_early: StopEarly | None = None
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
                help="`auto`: resume from the latest complete checkpoint in trainer.default_root_dir, or start if "
                "there is none; `never`: start a new run, which must have no checkpoints; or a .ckpt file",
            )
            parser.add_argument(
                "--find_lr",
                type=bool,
                default=False,
                help="do not train, but suggest the learning rate at which the loss falls fastest in a short test",
            )
        else:
            parser.add_argument(
                "--weights",
                type=str,
                default="auto",
                help="`auto`: the best checkpoint in trainer.default_root_dir; or a .ckpt file; or, for a classifier, "
                "a file of the authors or safetensors",
            )
            parser.add_argument(
                "--report",
                type=str,
                default="auto",
                help="folder of the stored predictions and the report; `auto`: reports/val or reports/test in "
                "trainer.default_root_dir; `none`: write no report",
            )
        return parser

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        parser.add_lightning_class_args(Checkpoints, "checkpoints")
        parser.add_argument(
            "--early_stopping",
            type=int | None,
            default=None,
            help="end the training after this number of validations without a better score",
        )
        parser.add_argument(
            "--logger",
            type=list[str] | str | None,
            default=None,
            help=f"one or several of {', '.join(LOGGERS)}, separated by commas (default: csv,tensorboard)",
        )

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        try:
            self.config = parser.parse_args(args)
        except ArgumentError as error:
            subparser = subcommand_parser(self, args[0], parser)
            raise InputError(explain(str(error), option_names(subparser))) from error
        for section in ("model", "data"):
            message = misplaced_null(self.config[self.config["subcommand"]][section], section)
            if message is not None:
                raise InputError(message)

    def instantiate_classes(self) -> None:
        try:
            super().instantiate_classes()
        except ValueError as error:
            cause = cause_of(error)
            if cause is None:
                raise
            raise cause from error

    def before_instantiate_classes(self) -> None:
        config = self.config[self.subcommand]
        trainer = config["trainer"]
        accelerator = trainer.accelerator
        if accelerator in ("gpu", "cuda") and not torch.cuda.is_available():
            raise InputError(
                f"trainer.accelerator is {accelerator!r}, but torch {torch.__version__} finds no CUDA device. Set it "
                "to 'auto' or 'cpu', or install a torch build with CUDA and check nvidia-smi."
            )
        if trainer.default_root_dir is None:
            trainer.default_root_dir = "out/run"
        self.root = Path(trainer.default_root_dir)
        self.finds_lr = bool(config.get("find_lr"))
        if self.finds_lr:  # a short training without validation, in a temporary folder
            trainer.default_root_dir = self.resources.enter_context(tempfile.TemporaryDirectory())
            trainer.max_epochs, trainer.max_steps, trainer.check_val_every_n_epoch = 10**6, -1, 10**6
            trainer.logger = False
        if trainer.precision is None:
            on_gpu = accelerator in ("auto", "gpu", "cuda") and torch.cuda.is_available()
            trainer.precision = "bf16-mixed" if on_gpu and torch.cuda.is_bf16_supported() else "32-true"

    def instantiate_trainer(self, **kwargs: Any) -> L.Trainer:
        options = self.config_init[self.subcommand]
        config = options["trainer"]
        logger, names = config["logger"], options["logger"]
        names = names.split(",") if isinstance(names, str) else names
        if self.subcommand != "fit" or config["fast_dev_run"] or self.finds_lr:
            names = []
        elif names is None:
            names = ["csv", "tensorboard"] if logger in (None, True) else []
        own = [] if logger in (None, True, False) else _as_list(logger)
        kwargs["logger"] = [*own, *make_loggers(names, self.root, self.resources)] or False
        kwargs["plugins"] = [*_as_list(config["plugins"]), AtomicCheckpointIO()]
        if config["sync_batchnorm"]:
            kwargs["plugins"].append(SyncNorm())
            kwargs["sync_batchnorm"] = False  # Lightning accepts the plugin or the flag, not both
        self.recorder = self._recorder()
        kwargs["callbacks"] = [*_as_list(config["callbacks"]), *self.extra_callbacks]
        if self.recorder is not None:
            kwargs["callbacks"].append(self.recorder)
        if options["early_stopping"] is not None and self.subcommand == "fit":
            self.stop_early = StopEarly(options["early_stopping"])
            kwargs["callbacks"].append(self.stop_early)
        if config["enable_progress_bar"] is not False:
            bar = progress()
            kwargs["callbacks"].append(bar)
            kwargs["enable_progress_bar"] = isinstance(bar, L.callbacks.ProgressBar)
        if config["enable_model_summary"] is None:
            kwargs["enable_model_summary"] = False
        return super().instantiate_trainer(**kwargs)

    def _recorder(self) -> Recorder | None:
        """Return the callback that writes the report of a validation or a test; None if there is none to write."""
        config = self.config_init[self.subcommand]
        if self.subcommand == "fit" or config["report"] == "none" or config["trainer"]["fast_dev_run"]:
            return None
        if config["report"] != "auto":
            return Recorder(Path(config["report"]))
        split = "test" if self.subcommand == "test" else "val"
        return Recorder(Path(config["trainer"]["default_root_dir"], "reports", split))

    # private, because no public method sets ckpt_path after the trainer is built
    def _prepare_subcommand_kwargs(self, subcommand: str) -> dict[str, Any]:
        kwargs = super()._prepare_subcommand_kwargs(subcommand)
        config = self.config[subcommand]
        root = self.root
        _check_workers(self.datamodule)
        if self.finds_lr:
            return kwargs
        if subcommand == "fit":
            if self.trainer.is_global_zero:  # with torchrun, every process runs this command
                self.resources.enter_context(lock_run_folder(root))
            path = checkpoint_to_resume(root, config["resume"], self.model)
            log_config(self.trainer.loggers, config.as_dict(), root)
            message = f"Resuming from {path}"
        else:
            path = weights_to_evaluate(root, config["weights"], self.model)
            message = self._describe_weights(subcommand, path)
            if self.recorder is not None:
                self.recorder.weights = path
        if path is not None:
            kwargs["ckpt_path"] = str(path) if path.suffix == ".ckpt" else None
            self.model.checkpoint = None if path.suffix == ".ckpt" else str(path)
            if self.trainer.is_global_zero:
                sys.stderr.write(f"{message}\n")
        return kwargs

    def _describe_weights(self, subcommand: str, path: Path) -> str:
        """Return a message about the evaluated weights and the names of their metrics."""
        if path.suffix != ".ckpt":
            self.model.ema_decay = None  # files other than .ckpt have one set of weights
            return f"Evaluating the weights of {path}"
        if self.model.ema_decay is None:
            return f"Evaluating the raw weights of {path}"
        prefix = {"validate": "val", "test": "test"}[subcommand]
        return f"Evaluating {path}: {prefix}/NAME is for the raw weights, {prefix}/NAME_ema for the EMA weights"

    def after_validate(self) -> None:
        """Print where the report is."""
        if self.recorder is not None and self.recorder.written:
            sys.stderr.write(f"Report: {self.recorder.folder / PAGE}\n")

    after_test = after_validate

    def fit(self, **kwargs: Any) -> None:
        """Train, or find a learning rate."""
        if not self.finds_lr:
            self.trainer.fit(**kwargs)
            return
        plot = self.root / "lr_find.png"
        rate = find_lr(self.trainer, self.model, self.datamodule, plot)
        if self.trainer.is_global_zero:
            sys.stdout.write(f"--model.optimizer.lr {rate:.2g}\n")
            sys.stderr.write(f"The loss falls fastest at this learning rate; {plot} shows the curve.\n")

    def after_fit(self) -> None:
        """Print a message if the training was stopped early, or if the run was already finished."""
        checkpoints = next(c for c in self.trainer.checkpoint_callbacks if isinstance(c, Checkpoints))
        if self.finds_lr or not self.trainer.is_global_zero:
            return
        more = "Increase trainer.max_epochs"
        if self.stop_early is not None and self.stop_early.stopped:
            sys.stderr.write(f"{self.stop_early.message()}\n")
            more = "Increase early_stopping"
        if not checkpoints.began:
            sys.stderr.write(
                f"The run in {self.root} is finished. {more} to continue it, or set another trainer.default_root_dir "
                "to start a new run.\n"
            )


def _check_workers(data: L.LightningDataModule) -> None:
    """Warn once if there are more workers than CPU cores; torch would warn for each loader."""
    workers = getattr(data, "num_workers", 0)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if workers > cores:
        rank_zero_warn(
            f"data.num_workers is {workers}, but this process may use only {cores} CPU cores: more workers than cores "
            "slow down data loading."
        )


def _as_list(value: Any) -> list[Any]:
    return [] if value is None else list(value) if isinstance(value, list | tuple) else [value]


def run(argv: Sequence[str], callbacks: Sequence[L.Callback] = ()) -> None:
    """Run `fit`, `validate` or `test` with its arguments, and restore the state of the process afterwards.

    Args:
        argv: the command and its options.
        callbacks: further callbacks of the trainer.

    Raises:
        Preempted: a signal ended the training, which was saved.
        KeyboardInterrupt: Ctrl-C with nothing to save, or a second Ctrl-C.
        InputError: the configuration or the data are invalid.
    """
    with restore_process_state(), quiet(), ExitStack() as resources, standard_signal_exceptions():
        try:
            CLI(argv, resources, callbacks)
        except MisconfigurationException as error:
            raise InputError(str(error)) from error
