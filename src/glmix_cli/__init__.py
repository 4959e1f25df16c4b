"""The command line interface `glmix COMMAND ...`, with one module per command.

This package is separate from `glmix` because importing `glmix` imports torch, which would delay `--help`. Each command
module imports the library inside its `run` function.

Exit codes: 0 success; 1 partial success, or a bug (with its traceback); 2 failure for a reason that the user can fix;
130 interrupted; 141 the reader of the output closed the pipe.
"""

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from importlib import metadata

from . import (
    bench,
    completion,
    configs,
    convert,
    demo,
    detect,
    embed,
    env,
    explain,
    export,
    fit,
    map,
    models,
    neighbors,
    predict,
    probe,
    push,
    report,
    scenes,
    segment,
    slots,
    weakseg,
)
from .printing import accept_any_text, printable_lines

__all__ = ["main", "run_command"]

# Commands that argparse parses. `fit.COMMANDS` holds the commands that LightningCLI parses.
COMMANDS = {
    "demo": demo,
    "configs": configs,
    "models": models,
    "predict": predict,
    "report": report,
    "embed": embed,
    "neighbors": neighbors,
    "map": map,
    "probe": probe,
    "convert": convert,
    "push": push,
    "scenes": scenes,
    "segment": segment,
    "detect": detect,
    "explain": explain,
    "export": export,
    "bench": bench,
    "env": env,
    "completion": completion,
    "slots": slots,
    "weakseg": weakseg,
}


# removed commands and their replacements
RENAMED = {"ablate": "`python -m studies.ablation FILE` in a clone of the repository"}
DEBUG = "--debug"
DEBUG_HELP = "show the full traceback of every error, including user errors"


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="glmix",
        description="GLNet vision backbones: convolutions on pixels, self-attention on semantic slots.",
        epilog="Run `glmix COMMAND --help` for the options of a command. Start with `glmix demo`, then "
        "`glmix fit --config classification/scenes/single`. `glmix configs` lists the recipe names that --config "
        "accepts.",
    )
    parser.add_argument("--version", action="version", version=f"glmix {metadata.version('glmix')}")
    parser.add_argument(DEBUG, action="store_true", help=DEBUG_HELP)
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name, module in COMMANDS.items():
        command = commands.add_parser(name, help=module.HELP, description=module.HELP)
        module.add_arguments(command)
        command.add_argument(DEBUG, action="store_true", help=DEBUG_HELP)
        command.set_defaults(run=module.run)
    for name, help_line in fit.COMMANDS.items():
        commands.add_parser(name, help=help_line, add_help=False)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command.

    Args:
        argv: the command-line arguments after `glmix`; None for the arguments of this process.

    Returns:
        The exit code.

    Raises:
        Exception: a bug, as opposed to a user error; with `--debug` any exception.
    """
    own_process = argv is None
    argv = list(sys.argv[1:] if argv is None else argv)
    debug = DEBUG in argv
    argv = [arg for arg in argv if arg != DEBUG]
    command = argv[0] if argv else ""
    if command in RENAMED:
        print(f"glmix {command} was replaced by {RENAMED[command]}", file=sys.stderr)
        return 2
    return run_command(f"glmix {command}", lambda: _run(command, argv, own_process), debug)


def run_command(name: str, run: Callable[[], int], debug: bool = False) -> int:
    """Run a command, print user errors to stderr and return an exit code.

    Args:
        name: the prefix of error messages.
        run: the command, which returns its exit code.
        debug: raise every exception instead of printing a message.

    Returns:
        The exit code.

    Raises:
        Exception: a bug, as opposed to a user error.
    """
    accept_any_text()
    try:
        code = run()
        sys.stdout.flush()  # raises BrokenPipeError here instead of at interpreter exit
    except BrokenPipeError:  # for example with `| head`, which is not an error
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except KeyboardInterrupt:
        if debug:
            raise
        print(f"\n{name}: interrupted", file=sys.stderr)
        return 130
    except Exception as error:
        if debug or not _is_user_error(error):
            raise
        from glmix.errors import message_of

        print(f"{name}: {printable_lines(message_of(error))}", file=sys.stderr)
        return 2
    return code


def _run(command: str, argv: Sequence[str], own_process: bool) -> int:
    if command in fit.COMMANDS:
        return fit.main(argv, own_process)
    args = build_parser().parse_args(argv)
    if own_process:  # the allocator setting cannot be undone, so do not change it in a caller's process
        from glmix.memory import keep_freed_memory

        keep_freed_memory()
    code: int = args.run(args)
    return code


def _is_user_error(error: Exception) -> bool:
    """Return whether the user can fix the cause of an error; all other errors are bugs and keep their traceback."""
    from glmix.errors import InputError, MissingExtraError, is_dead_worker, is_file_error

    return isinstance(error, InputError | MissingExtraError) or is_file_error(error) or is_dead_worker(error)
