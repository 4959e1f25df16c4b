"""`glmix fit`, `glmix validate` and `glmix test`, whose arguments LightningCLI parses.

`main` gets the raw arguments: `main(["fit", "--config", ...])`.
"""

import argparse
import sys
from collections.abc import Sequence

__all__ = ["COMMANDS", "main"]

CONFIG_HELP = (
    "a YAML file or the name of a recipe (see `glmix configs`), such as classification/scenes/single; can be repeated"
)
COMMANDS = {
    "fit": "Train a model as configured in a YAML file; repeat the command to resume an interrupted run.",
    "validate": "Evaluate a trained model on the validation data and write a report.",
    "test": "Evaluate a trained model on the test data and write a report.",
}


def short_help(command: str) -> argparse.ArgumentParser:
    """Return a parser for a short help text; the help of LightningCLI takes seconds because it imports all classes."""
    parser = argparse.ArgumentParser(
        prog=f"glmix {command}",
        description=COMMANDS[command],
        epilog="Every key of the YAML file is also a command-line option. "
        f"`glmix {command} --config classification/scenes/single --help` lists all options; docs/training.md explains "
        "them. An unknown key is an error, and its message suggests the most similar key.",
    )
    parser.add_argument("--config", metavar="FILE|NAME", help=CONFIG_HELP)
    parser.add_argument("--trainer.max_epochs", metavar="N", help="example of a YAML key: number of epochs")
    parser.add_argument("--data.source.root", metavar="FOLDER", help="example of a YAML key: folder of the images")
    parser.add_argument("--model.checkpoint", metavar="FILE", help="example of a YAML key: pretrained weights")
    if command == "fit":
        parser.add_argument(
            "--resume",
            metavar="auto|never|FILE",
            help="auto: resume the run in trainer.default_root_dir, or start a new one; never: start a new one; FILE: "
            "resume from this .ckpt (default: auto)",
        )
    else:
        parser.add_argument(
            "--weights",
            metavar="auto|FILE",
            help="auto: the best checkpoint of the run in trainer.default_root_dir; or a file (default: auto)",
        )
        parser.add_argument(
            "--report",
            metavar="auto|none|FOLDER",
            help="folder of the stored predictions and the report (auto: reports/ in the run folder)",
        )
    parser.add_argument("--print_config", action="store_true", help="print the complete configuration and exit")
    return parser


def main(argv: Sequence[str], own_process: bool = False) -> int:
    """Run fit, validate or test.

    Args:
        argv: the command and its arguments.
        own_process: whether the process ends with the command, so that its memory allocator may be reconfigured.

    Returns:
        The exit code: 128 + signal number if a signal ended the training, else as for the other commands.
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
