"""Run an ablation study on scenes, or resume it: `python -m studies.ablation [FILE]`."""

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
from studies.ablation.study import Ablation, Run, finished_runs, other_runs, plan, read_ablation, run_all

HELP = "Compare variants of a small network on scenes with several seeds each. The same command resumes a study."
FOLDER = Path(__file__).parent


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m studies.ablation", description=HELP)
    parser.add_argument(
        "config",
        metavar="FILE",
        nargs="?",
        type=Path,
        default=FOLDER / "scenes.yaml",
        help="configuration (default: scenes.yaml)",
    )
    parser.add_argument("--out", type=Path, metavar="DIR", help="output folder (default: out/ablations/NAME)")
    # On two busy cores, two threads were measured at a fifth of the speed of one.
    parser.add_argument("--threads", type=int, default=1, metavar="N", help="CPU threads (default: %(default)s)")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command with `argv`, or with the arguments of the process, and return its exit code."""
    args = parse(argv)
    return run_command("studies.ablation", lambda: run(args))


def run(args: argparse.Namespace) -> int:
    """Run the study, then print and write its report."""
    if args.threads < 1:
        raise InputError(f"--threads must be at least 1, got {args.threads}.")
    torch.set_num_threads(args.threads)
    config = read_ablation(args.config)
    out = args.out or Path("out", "ablations", args.config.stem)
    runs = plan(config)
    _print_progress(config, out / "runs", len(runs))

    results = []
    with tqdm(total=len(runs), unit="run", smoothing=0.1) as bar:

        def started(run: Run) -> None:
            bar.set_description(f"{run.variant.name}, seed {run.seed}")

        def finished(run: Run, result: dict[str, Any]) -> None:
            bar.write(f"{run.variant.name}, seed {run.seed}: {result['score']:.1%} after {result['seconds']:.0f} s")

        for result in run_all(config, out / "runs", started, finished):
            results.append(result)
            bar.update()
    print(f"\n{write_report(out, config, results, measure_speed(config))}")
    print(f"Written to {out}: table.md, table.json, ablation.png, and one file per run in runs.")
    return 0


def _print_progress(config: Ablation, folder: Path, total: int) -> None:
    """Print how many runs are finished, and how many files belong to other settings."""
    done = len(finished_runs(config, folder))
    print(f"Runs in this configuration: {total}, finished: {done}.", flush=True)
    others = other_runs(config, folder)
    if others:
        name, differences = next(iter(others.items()))
        shown = "; ".join(differences[:3]) + ("; ..." if len(differences) > 3 else "")
        print(
            f"The configuration has changed. Finished runs with other settings in {folder}, not part of the table: "
            f"{len(others)}. In {name}: {shown}.",
            flush=True,
        )


if __name__ == "__main__":
    sys.exit(main())
