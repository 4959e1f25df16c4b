"""`glmix fit`, `glmix validate` and `glmix test`. Their arguments are Lightning's and the chosen classes' own.

The dispatcher hands them the raw arguments: `main(["fit", "--config", ...])`.
"""

import argparse
import sys
from collections.abc import Sequence

__all__ = ["COMMANDS", "main"]

CONFIG_HELP = "a YAML file or a shipped recipe (see `glmix configs`), such as classification/scenes/single; repeatable"
COMMANDS = {
    "fit": "Train a model as a YAML file says; the same command again continues where it stopped.",
    "validate": "Measure a trained model on the validation data.",
    "test": "Measure a trained model on the test data.",
}


def short_help(command: str) -> argparse.ArgumentParser:
    """What a newcomer needs, without the seconds that it takes to ask every class for its arguments."""
    parser = argparse.ArgumentParser(
        prog=f"glmix {command}",
        description=COMMANDS[command],
        epilog="Every key of the YAML is an option of its own: "
        f"`glmix {command} --config classification/scenes/single --help` lists them all, docs/training.md explains "
        "them. An unknown key is refused, with the most similar one that exists.",
    )
    parser.add_argument("--config", metavar="FILE|NAME", help=CONFIG_HELP)
    parser.add_argument("--trainer.max_epochs", metavar="N", help="an example of such an option; so are ...")
    parser.add_argument("--data.source.root", metavar="FOLDER", help="... where images lie, and ...")
    parser.add_argument("--model.checkpoint", metavar="FILE", help="... weights to begin training from")
    if command == "fit":
        parser.add_argument("--resume", metavar="auto|never|FILE", help="continue the run that is there (auto)")
    else:
        parser.add_argument(
            "--weights", metavar="auto|FILE", help="the weights to measure (auto: the run's best checkpoint)"
        )
    parser.add_argument("--print_config", action="store_true", help="print all that can be set, with what is set")
    return parser


def main(argv: Sequence[str], own_process: bool = False) -> int:
    """Run one of the commands with the arguments behind it.

    Args:
        argv: the command and its arguments.
        own_process: whether the process ends with the command, so that its allocator may be told to keep memory.

    Returns:
        The exit code: beside the usual ones 128 + signal where a signal has ended a training.
    """
    if list(argv[1:]) in ([], ["-h"], ["--help"]):
        short_help(argv[0]).print_help(sys.stdout if argv[1:] else sys.stderr)
        return 0 if argv[1:] else 2
    from glmix.memory import keep_freed_memory
    from glmix.tasks import cli
    from glmix.training.checkpoints import Preempted

    if own_process:
        keep_freed_memory()
    try:
        cli.run(argv)
    except Preempted as stopped:
        print(f"glmix {argv[0]}: {stopped}", file=sys.stderr)
        return 128 + stopped.signum
    return 0
