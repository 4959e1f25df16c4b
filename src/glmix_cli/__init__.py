"""The command line: `glmix COMMAND ...`, one module a command, each thin over the library.

It is a package beside `glmix`, not in it, because importing `glmix` imports torch, and help must not wait for that.
A command's module imports the library inside `run`.

Exit codes: 0 done; 1 done in part, or a bug, which shows its traceback; 2 not done, for a reason that the user can fix;
130 interrupted; 141 the reader of the output has closed it.
"""

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from importlib import metadata

from . import (
    bench,
    configs,
    convert,
    demo,
    detect,
    explain,
    export,
    fit,
    models,
    predict,
    scenes,
    segment,
    slots,
    weakseg,
)
from .printing import accept_any_text, printable_lines

__all__ = ["main", "run_command"]

# Commands with arguments of their own, and those whose arguments the training library reads, from YAML too.
COMMANDS = {
    "demo": demo,
    "configs": configs,
    "models": models,
    "predict": predict,
    "convert": convert,
    "scenes": scenes,
    "segment": segment,
    "detect": detect,
    "explain": explain,
    "export": export,
    "bench": bench,
    "slots": slots,
    "weakseg": weakseg,
}


# commands of earlier versions
RENAMED = {"ablate": "`python -m studies.ablation FILE` in a clone of the repository"}
DEBUG = "--debug"
DEBUG_HELP = "show the traceback of every error, also of those that you can fix yourself"


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="glmix",
        description="GLNet vision backbones: convolutions on pixels, self-attention on semantic slots.",
        epilog="`glmix COMMAND --help` explains a command. Start with `glmix demo`, then "
        "`glmix fit --config classification/scenes/single`; `glmix configs` lists the recipes that --config takes by "
        "name.",
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
        argv: the arguments behind `glmix`; those of the process if None.

    Returns:
        The exit code.

    Raises:
        Exception: whatever is a bug, not a mistake of the user; with `--debug` every exception.
    """
    own_process = argv is None
    argv = list(sys.argv[1:] if argv is None else argv)
    debug = DEBUG in argv
    argv = [arg for arg in argv if arg != DEBUG]
    command = argv[0] if argv else ""
    if command in RENAMED:
        print(f"glmix {command} has become {RENAMED[command]}", file=sys.stderr)
        return 2
    return run_command(f"glmix {command}", lambda: _run(command, argv, own_process), debug)


def run_command(name: str, run: Callable[[], int], debug: bool = False) -> int:
    """Run a command and report errors as the command line does.

    Args:
        name: what messages begin with.
        run: the command, which returns its exit code.
        debug: raise every exception.

    Returns:
        The exit code.

    Raises:
        Exception: whatever is a bug, not a mistake of the user.
    """
    accept_any_text()
    try:
        code = run()
        sys.stdout.flush()  # a closed pipe shows here, not when the interpreter ends
    except BrokenPipeError:  # such as behind `| head`: nobody reads on, which is no error
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except KeyboardInterrupt:
        if debug:
            raise
        print(f"\n{name}: interrupted", file=sys.stderr)
        return 130
    except Exception as error:
        if debug or not _can_be_fixed_by_user(error):
            raise
        from glmix.errors import message_of

        print(f"{name}: {printable_lines(message_of(error))}", file=sys.stderr)
        return 2
    return code


def _run(command: str, argv: Sequence[str], own_process: bool) -> int:
    if command in fit.COMMANDS:
        return fit.main(argv, own_process)
    args = build_parser().parse_args(argv)
    if own_process:  # it cannot be undone, so the process of a caller is left as it is
        from glmix.memory import keep_freed_memory

        keep_freed_memory()
    code: int = args.run(args)
    return code


def _can_be_fixed_by_user(error: Exception) -> bool:
    """Tell mistakes of the user and states of the machine from bugs, which keep their traceback."""
    from glmix.errors import InputError, MissingExtraError, is_file_error

    return isinstance(error, InputError | MissingExtraError) or is_file_error(error)
