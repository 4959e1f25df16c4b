"""`python -m studies.ablation`: compare variants of a small network on scenes, and continue where it stopped."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from glmix.errors import InputError
from glmix_cli import run_command
from studies.ablation.report import write_report
from studies.ablation.speed import measure_speed
from studies.ablation.study import Ablation, Run, carry_out, finished_runs, plan, read_ablation, strangers

HELP = "Compare variants of a small network on scenes, several seeds each; the same command again continues."
FOLDER = Path(__file__).parent


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m studies.ablation", description=HELP)
    parser.add_argument(
        "config", metavar="FILE", nargs="?", type=Path, default=FOLDER / "scenes.yaml", help="a YAML file"
    )
    parser.add_argument(
        "--out", type=Path, metavar="DIR", help="where runs and tables go (default: out/ablations/NAME)"
    )
    # two threads on two busy cores were measured at a fifth of the speed of one
    parser.add_argument("--threads", type=int, default=1, metavar="N", help="to compute with (default: %(default)s)")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the study with the arguments of the process or those that are given."""
    args = parse(argv)
    return run_command("studies.ablation", lambda: run(args))


def run(args: argparse.Namespace) -> int:
    if args.threads < 1:
        raise InputError(f"--threads must be at least 1, got {args.threads}.")
    torch.set_num_threads(args.threads)
    config = read_ablation(args.config)
    out = args.out or Path("out", "ablations", args.config.stem)
    runs = plan(config)
    _say_what_is_there(config, out / "runs", len(runs))

    results = []
    with tqdm(total=len(runs), unit="run", smoothing=0.1) as bar:

        def started(run: Run) -> None:
            bar.set_description(f"{run.variant.name}, seed {run.seed}")

        def finished(run: Run, result: dict[str, Any]) -> None:
            bar.write(f"{run.variant.name}, seed {run.seed}: {result['score']:.1%} after {result['seconds']:.0f} s")

        for result in carry_out(config, out / "runs", started, finished):
            results.append(result)
            bar.update()
    print(f"\n{write_report(out, config, results, measure_speed(config))}")
    print(f"Written to {out}: table.md, table.json, ablation.png and a file for each run under runs.")
    return 0


def _say_what_is_there(config: Ablation, folder: Path, total: int) -> None:
    done = len(finished_runs(config, folder))
    print(f"Runs of this configuration: {total}; done already: {done}.", flush=True)
    others = strangers(config, folder)
    if others:
        name, differences = next(iter(others.items()))
        shown = "; ".join(differences[:3]) + ("; ..." if len(differences) > 3 else "")
        print(
            f"The configuration has changed: finished runs of other settings in {folder}, which the table leaves "
            f"out: {len(others)}. In {name} {shown}.",
            flush=True,
        )


if __name__ == "__main__":
    sys.exit(main())
