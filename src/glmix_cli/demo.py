"""`glmix demo`: train a network on generated images in a few minutes, and write figures of its results."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from glmix.demo.run import Demo

HELP = "Train a small network on generated images in a few minutes, and show its results."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "out",
        nargs="?",
        type=Path,
        default=Path("out/demo"),
        metavar="OUT",
        help="output folder (default: %(default)s)",
    )
    parser.add_argument(
        "--seed", type=int, default=0, metavar="N", help="random seed of the training (default: %(default)s)"
    )
    parser.add_argument("--epochs", type=int, default=12, metavar="N", help="training epochs (default: %(default)s)")
    parser.add_argument("--scenes", type=int, default=5000, metavar="N", help="training scenes (default: %(default)s)")
    # on two busy cores, two threads were measured at a fifth of the speed of one thread
    parser.add_argument("--threads", type=int, default=1, metavar="N", help="CPU threads (default: %(default)s)")
    parser.add_argument(
        "--at-least", type=float, default=95, metavar="PERCENT", help="fail below this accuracy (default: %(default)s)"
    )


def run(args: argparse.Namespace) -> int:
    import torch

    from glmix.demo.run import ARTEFACTS, DemoConfig, run_demo
    from glmix.errors import InputError
    from glmix.training.progress import progress
    from glmix.training.short_training import Recipe

    if args.threads < 1:
        raise InputError(f"--threads must be at least 1, got {args.threads}.")
    torch.set_num_threads(args.threads)
    config = DemoConfig(args.scenes, Recipe(epochs=args.epochs), args.seed)
    demo = run_demo(
        args.out, config, artefacts=ARTEFACTS, callbacks=(progress(),), log=lambda text: print(text, flush=True)
    )
    _print_accuracy(demo)
    print(f"\nWritten to {args.out}:")
    print(f"  {'model':16s} the network, for timm and transformers")
    for name, (description, _) in ARTEFACTS.items():
        print(f"  {name:16s} {description}")
    if demo.accuracy < args.at_least / 100:
        raise InputError(
            f"the accuracy on {len(demo.scenes):,} held-out scenes is {demo.accuracy:.1%}, below --at-least "
            f"{args.at_least:g} %: increase --epochs or --scenes."
        )
    print("\nNext:")
    print(f"  glmix predict {args.out / 'images'} --model local-dir:{args.out / 'model'} --topk 2")
    print("  glmix fit --config classification/scenes/several")
    print("  glmix fit --config segmentation/scenes/segmentation_fpn")
    return 0


def _print_accuracy(demo: "Demo") -> None:
    """Print the accuracy of the network and of the baselines."""
    parameters = sum(p.numel() for p in demo.model.parameters())
    print(f"\nAccuracy on {len(demo.scenes):,} held-out scenes of {len(demo.class_names)} classes:")
    for name, accuracy in {**demo.baselines, "this network": demo.accuracy}.items():
        print(f"  {name:18s} {accuracy:6.1%}")
    print(f"({parameters:,} parameters, {demo.seconds:.0f} s of training)")
