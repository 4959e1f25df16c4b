"""The command line: `glmix COMMAND ...`, one module a command, each thin over the library.

It is a package beside `glmix`, not in it, because importing `glmix` imports torch, and help must not wait for that.
A command's module imports the library inside `run`. Exit codes: 0 done, 1 done in part, 2 not done.
"""

import argparse
import sys
from collections.abc import Sequence
from importlib import metadata

from . import convert, demo, models, predict, scenes

__all__ = ["main"]

COMMANDS = {"demo": demo, "models": models, "predict": predict, "convert": convert, "scenes": scenes}


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
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    args = build_parser().parse_args(argv)
    try:
        code: int = args.run(args)
    except (OSError, ValueError) as error:
        print(f"glmix {args.command}: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"\nglmix {args.command}: interrupted", file=sys.stderr)
        return 130
    return code
