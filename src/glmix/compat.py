"""Private and version-dependent APIs of other libraries, each in one small wrapper.

All other modules use documented APIs only; `tests/test_compat.py` checks this. When a library changes, change its
wrapper here. Importing this module imports torch and timm; everything else is imported when a wrapper needs it.

Tested versions, with the oldest supported versions in parentheses:

    torch 2.15 (2.9), timm 1.0.31 (1.0.22), lightning 2.6.6 (2.6), torchdata 0.11 (0.11),
    jsonargparse 4.53 (4.51), segmentation_models_pytorch 0.6 (0.6), Python 3.11 (3.11)

Four private methods of base classes are overridden. An override cannot be wrapped, so they are in their subclasses:

    LightningCLI._prepare_subcommand_parser, LightningCLI._prepare_subcommand_kwargs   (`tasks/cli.py`)
    StatefulDataLoader._get_iterator                                                   (`data/core/loaders.py`)
    ReaderImageInTar._filename of timm                                 (`data/classification/readers.py`)

`GLNet._model_args` has the name of timm's private attribute on purpose: timm 1.0.31 writes it, older releases do not.
"""

import argparse
import contextlib
import multiprocessing
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch

# timm exports these two from no public module.
from timm.models._features import feature_take_indices
from timm.models._hub import save_config_for_hf
from torch import nn

# The base class of every BatchNorm, SyncBatchNorm included; torch.nn has the subclasses only.
from torch.nn.modules.batchnorm import _BatchNorm as BatchNorm

if TYPE_CHECKING:
    import lightning.pytorch as L
    from lightning.pytorch.cli import LightningCLI

__all__ = [
    "BatchNorm",
    "allow_gradient_clipping",
    "attached_trainer",
    "compile_for_each_shape",
    "compile_with_cuda_graphs",
    "compiler_errors",
    "cpu_supports_bfloat16",
    "datamodule_of",
    "encoder_geometry",
    "export_errors",
    "finished_epochs",
    "feature_take_indices",
    "freeze_weights",
    "has_triton",
    "inherit_in_child_processes",
    "is_accumulating",
    "is_compiled",
    "load_compiled_package",
    "log_interval",
    "loops_state",
    "open_stream",
    "option_names",
    "parser_actions",
    "record_compiled_kernels",
    "restart_finished_iterator",
    "restart_validation",
    "run_validation",
    "save_compiled_package",
    "save_config_for_hf",
    "start_next_epoch",
    "started_batches",
    "subcommand_parser",
    "total_batches",
    "train_dataloader",
    "uncompiled",
    "uncompiled_name",
    "wrap_compiled_call",
]


# ---- torch: processors and compilers


def cpu_supports_bfloat16() -> bool:
    """Return whether the CPU multiplies bfloat16 in hardware. torch has a public test for CUDA only."""
    return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()


def has_triton() -> bool:
    """Return whether torch.compile finds Triton for this GPU. torch has no public test."""
    import torch.utils._triton

    return torch.utils._triton.has_triton()


# ---- optimizers


def allow_gradient_clipping(optimizer: torch.optim.Optimizer) -> None:
    """Let the caller unscale and clip the gradients of a fused optimizer, as of any other.

    A fused optimizer can unscale the gradients of float16 training itself. Lightning then refuses to clip them, also in
    bfloat16, where nothing is scaled. There is no public way to turn this off.
    """
    vars(optimizer).pop("_step_supports_amp_scaling", None)


# ---- torch.compile


def is_compiled(module: nn.Module) -> bool:
    """Return whether `module.compile()` was called. torch has no public test."""
    return module._compiled_call_impl is not None


def wrap_compiled_call(module: nn.Module, wrapper: Callable[[Any], Any]) -> None:
    """Wrap the compiled call that `module.compile()` set in `wrapper`. torch has no public access to it."""
    module._compiled_call_impl = wrapper(module._compiled_call_impl)


def uncompiled(module: nn.Module) -> Any:
    """Return the module that `torch.compile(module)` wraps, or the module itself. torch has no public access to it."""
    return getattr(module, "_orig_mod", module)


def uncompiled_name(name: str) -> str:
    """Return the name of a submodule without the prefix that `torch.compile(module)` adds."""
    return name.replace("_orig_mod.", "")


def freeze_weights() -> contextlib.AbstractContextManager[Any]:
    """Compile graphs with constant weights in this context. The `options` of torch.compile do not have this effect."""
    import torch._inductor.config

    return torch._inductor.config.patch(freezing=True)


def compile_for_each_shape() -> None:
    """Compile a kernel per input shape in this process. The public `dynamic=False` of torch.compile is per call."""
    import torch._dynamo.config

    torch._dynamo.config.automatic_dynamic_shapes = False


def compile_with_cuda_graphs() -> None:
    """Let torch.compile use CUDA graphs in this process. Its public `mode` and `options` exclude each other."""
    import torch._inductor.config

    torch._inductor.config.triton.cudagraphs = True


def record_compiled_kernels() -> None:
    """Let the profiler record the kernels that torch.compile generates for a CPU in this process, by their names."""
    import torch._inductor.config

    torch._inductor.config.cpp.enable_kernel_profile = True


# ---- torch.export and ahead-of-time compilation


def export_errors() -> tuple[type[Exception], ...]:
    """Return the exceptions that `torch.export.export` raises for a wrong dynamic shape. torch.export has no alias."""
    import torch._dynamo.exc

    return (torch._dynamo.exc.UserError,)


def compiler_errors() -> tuple[type[Exception], ...]:
    """Return the exceptions that torch raises without a working C++ compiler. torch has no public alias."""
    from torch._inductor.exc import CppCompileError, InvalidCxxCompiler

    return (InvalidCxxCompiler, CppCompileError)


def save_compiled_package(program: torch.export.ExportedProgram, path: str, configs: dict[str, Any]) -> None:
    """Compile a program to machine code and save it. torch documents this function under its private name only."""
    import torch._inductor

    torch._inductor.aoti_compile_and_package(program, package_path=path, inductor_configs=configs)


def load_compiled_package(path: str) -> Any:
    """Load a file of `save_compiled_package`. torch documents this function under its private name only."""
    import torch._inductor

    return torch._inductor.aoti_load_package(path)


# ---- timm's readers


def open_stream(reader: Any) -> None:
    """Open the dataset of a streaming reader. In timm only iterating does it, and iterating decodes the images."""
    reader._lazy_init()


# ---- Lightning


def attached_trainer(module: "L.LightningModule") -> "L.Trainer | None":
    """Return the trainer of a module, or None. The public `trainer` raises an error if there is none."""
    return module._trainer


def datamodule_of(trainer: "L.Trainer | None") -> Any:
    """Return the data module of a trainer, or None. Lightning sets this attribute without declaring it."""
    return getattr(trainer, "datamodule", None)


def log_interval(trainer: "L.Trainer") -> int:
    """Return `log_every_n_steps` of a trainer. Lightning sets this attribute without declaring it."""
    steps: int = trainer.log_every_n_steps  # type: ignore[attr-defined]
    return steps


def train_dataloader(trainer: "L.Trainer") -> Any:
    """Return the training loader. The public `trainer.train_dataloader` is None until the optimiser is configured."""
    return trainer.fit_loop._data_source.dataloader()


def is_accumulating(trainer: "L.Trainer") -> bool:
    """Return whether the optimiser step waits for more batches. Lightning has no public test."""
    return trainer.fit_loop._should_accumulate()


def total_batches(trainer: "L.Trainer") -> int:
    """Return the index of the current batch, counted over all epochs. Lightning does not document its loops."""
    return trainer.fit_loop.epoch_loop.total_batch_idx


def started_batches(trainer: "L.Trainer") -> int:
    """Return how many batches of the current epoch have started. Lightning does not document its loops."""
    return trainer.fit_loop.epoch_loop.batch_progress.current.ready


def finished_epochs(trainer: "L.Trainer") -> int:
    """Return the epoch that Lightning gives to samplers. The public `current_epoch` is incremented later."""
    current: Any = trainer.fit_loop.epoch_progress.current
    processed: int = current.processed
    return processed


def loops_state(trainer: "L.Trainer") -> dict[str, Any]:
    """Return the entry `loops` of a checkpoint. Lightning has no public function for this entry alone."""
    return trainer._checkpoint_connector._get_loops_state_dict()


def start_next_epoch(trainer: "L.Trainer") -> None:
    """Start a new epoch if training resumes from the end of one. Lightning would continue the finished epoch."""
    progress: Any = trainer.fit_loop.epoch_progress.current
    if progress.ready == progress.processed:
        trainer.fit_loop.reset_restart_stage()


def restart_validation(trainer: "L.Trainer") -> None:
    """Let the first validation after a resume read all batches.

    Lightning restores the number of batches of the last validation before the checkpoint, treats these batches as
    already read, and would end the next validation after one batch. There is no public way to reset it.
    """
    trainer.fit_loop.epoch_loop.val_loop.batch_progress.reset_on_run()


def run_validation(trainer: "L.Trainer") -> None:
    """Run the validation of an epoch from a callback. `trainer.validate` cannot be called during a fit."""
    trainer.validating = True
    trainer.fit_loop.epoch_loop.val_loop.run()
    trainer.training = True


def subcommand_parser(cli: "LightningCLI", subcommand: str, default: Any) -> Any:
    """Return the parser of a subcommand, or `default`. LightningCLI has no public access to it."""
    return cli._subcommand_parsers.get(subcommand, default)


# ---- argparse and jsonargparse


def parser_actions(parser: Any) -> list[argparse.Action]:
    """Return the arguments and options of a parser. argparse and jsonargparse have no public list."""
    return list(parser._actions)


def option_names(parser: Any) -> list[str]:
    """Return the names of all options of a parser."""
    return [action.dest for action in parser_actions(parser)]


# ---- torchdata


def restart_finished_iterator(iterator: Any, length: int) -> None:
    """Mark a restored iterator that has yielded all its batches as finished, so that the loader starts a new epoch.

    StatefulDataLoader marks it only when a batch after the last is requested; it has no public method for this.
    """
    if iterator._num_yielded >= length:
        iterator._finished = True


# ---- segmentation_models.pytorch


def encoder_geometry(encoder: Any) -> tuple[int, int]:
    """Return (output stride, depth) as requested. The public `output_stride` is the minimum of the two strides."""
    return encoder._output_stride, encoder._depth


# ---- multiprocessing


def inherit_in_child_processes(name: str, value: object) -> None:
    """Send a value to every process that this one starts, under every start method. There is no public alternative.

    A child process receives a copy of the configuration of its parent. Unpickling a class imports its module.
    """
    vars(multiprocessing.current_process())["_config"][name] = value
