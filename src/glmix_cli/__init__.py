"""The command line: `glmix COMMAND ...`, one module a command, each thin over the library.

It is a package beside `glmix`, not in it, because importing `glmix` imports torch, and help must not wait for that.
A command's module imports the library inside `run`. Exit codes: 0 done, 1 done in part, 2 not done.
"""

import argparse
import sys
from collections.abc import Sequence
from importlib import metadata

from . import (
    ablate,
    bench,
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

__all__ = ["main"]

# Commands with arguments of their own, and those whose arguments the training library reads, from YAML too.
COMMANDS = {
    "demo": demo,
    "models": models,
    "predict": predict,
    "convert": convert,
    "scenes": scenes,
    "segment": segment,
    "detect": detect,
    "ablate": ablate,
    "explain": explain,
    "export": export,
    "bench": bench,
    "slots": slots,
    "weakseg": weakseg,
}


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="glmix",
        description="GLNet vision backbones: convolutions on pixels, self-attention on semantic slots.",
        epilog="`glmix COMMAND --help` explains a command. Start with `glmix demo`.",
    )
    parser.add_argument("--version", action="version", version=f"glmix {metadata.version('glmix')}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name, module in COMMANDS.items():
        command = commands.add_parser(name, help=module.HELP, description=module.HELP)
        module.add_arguments(command)
        command.set_defaults(run=module.run)
    for name, help_line in fit.COMMANDS.items():
        commands.add_parser(name, help=help_line, add_help=False)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    argv = list(sys.argv[1:] if argv is None else argv)
    command = argv[0] if argv else ""
    try:
        if command in fit.COMMANDS:
            return fit.main(argv)
        args = build_parser().parse_args(argv)
        from glmix.memory import keep_freed_memory

        keep_freed_memory()
        code: int = args.run(args)
    except (OSError, ValueError) as error:
        print(f"glmix {command}: {error}", file=sys.stderr)
        return 2
    except ImportError as error:
        if "pip install" not in str(error):  # a missing extra says how to get it; all else is a fault
            raise
        print(f"glmix {command}: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"\nglmix {command}: interrupted", file=sys.stderr)
        return 130
    return code
