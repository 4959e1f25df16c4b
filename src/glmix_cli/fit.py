"""`glmix fit`, `glmix validate` and `glmix test`. Their arguments are Lightning's and the chosen classes' own.

The dispatcher hands them the raw arguments: `main(["fit", "--config", ...])`.
"""

import sys
from collections.abc import Sequence

__all__ = ["COMMANDS", "main"]

COMMANDS = {
    "fit": "Train a model as a YAML file says; the same command again continues where it stopped.",
    "validate": "Measure a trained model on the validation data.",
    "test": "Measure a trained model on the test data.",
}


def main(argv: Sequence[str]) -> int:
    """Run one of the commands with the arguments behind it. Exit codes beside the usual: 128 + signal if preempted."""
    from glmix.tasks import cli
    from glmix.tasks.checkpoints import Preempted

    try:
        cli.run(argv)
    except Preempted as stopped:
        print(f"glmix {argv[0]}: {stopped}", file=sys.stderr)
        return 128 + stopped.signum
    return 0
