"""`glmix ablate`: compare variants of a small network on scenes, and continue where it stopped."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from glmix.tasks.ablation.study import Ablation, Run

HELP = "Compare variants of a small network on scenes, several seeds each; the same command again continues."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "config",
        metavar="FILE|NAME",
        help="a YAML file, or a shipped recipe such as ablations/scenes (`glmix configs` lists them)",
    )
    parser.add_argument(
        "--out", type=Path, metavar="DIR", help="where runs and tables go (default: out/ablations/NAME)"
    )
    # two threads on two busy cores were measured at a fifth of the speed of one
    parser.add_argument("--threads", type=int, default=1, metavar="N", help="to compute with (default: %(default)s)")


def run(args: argparse.Namespace) -> int:
    import torch
    from tqdm import tqdm

    from glmix.configs import find_config
    from glmix.errors import InputError
    from glmix.tasks.ablation.report import write_report
    from glmix.tasks.ablation.speed import measure_speed
    from glmix.tasks.ablation.study import carry_out, plan, read_ablation

    if args.threads < 1:
        raise InputError(f"--threads must be at least 1, got {args.threads}.")
    torch.set_num_threads(args.threads)
    path = find_config(args.config)
    config = read_ablation(path)
    out = args.out or Path("out", "ablations", path.stem)
    runs = plan(config)
    _say_what_is_there(config, out / "runs", len(runs))

    results = []
    with tqdm(total=len(runs), unit="run", smoothing=0.1) as bar:

        def started(run: "Run") -> None:
            bar.set_description(f"{run.variant.name}, seed {run.seed}")

        def finished(run: "Run", result: dict[str, Any]) -> None:
            bar.write(f"{run.variant.name}, seed {run.seed}: {result['score']:.1%} after {result['seconds']:.0f} s")

        for result in carry_out(config, out / "runs", started, finished):
            results.append(result)
            bar.update()
    print(f"\n{write_report(out, config, results, measure_speed(config))}")
    print(f"Written to {out}: table.md, table.json, ablation.png and a file for each run under runs.")
    return 0


def _say_what_is_there(config: "Ablation", folder: Path, total: int) -> None:
    from glmix.tasks.ablation.study import finished_runs, strangers

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
