"""Run the GPU suite: correctness checks, tables of speed and memory, and the choices between implementations.

    python -m studies.gpu [PART ...] [-o out/gpu]

Each part runs in its own process; checks run at the same time, measurements one after the other. The results are
written to gpu.json, gpu.md and plots after every part. The exit code is 0 if all parts passed, 1 if one failed or did
not run, and 2 for a mistake of the user, such as no GPU.
"""

import argparse
import importlib.util
import json
import multiprocessing
import os
import shlex
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from glmix.bench.machine import describe_machine, versions
from glmix.errors import InputError

from . import choices, models, report, runs, tables, uses
from .settings import Settings

BUDGET = 520.0  # seconds for all parts
PART_BUDGET = 300.0  # seconds for one part


@dataclass(frozen=True)
class Part:
    """A part of the suite.

    Args:
        run: function from the settings to rows, or to an iterator of growing results of `glmix.bench.measure`.
        needs: packages that the part needs besides torch, torchvision and timm.
        check: whether it is a check, whose rows have an entry `passed`; otherwise it measures time, alone.
    """

    run: Callable[[Settings], Any]
    needs: tuple[str, ...] = ()
    check: bool = True

    @property
    def summary(self) -> str:
        return (self.run.__doc__ or "").strip().splitlines()[0]


TRAINING = ("lightning", "torchmetrics")
PARTS = {
    "agreement": Part(models.agreement),
    "autocast": Part(models.autocast),
    "compiled": Part(models.compiled),
    "resume": Part(runs.resume, TRAINING),
    "distributed": Part(runs.distributed, TRAINING),
    "detection": Part(uses.detection, TRAINING),
    "maps": Part(uses.maps),
    "pipeline": Part(uses.pipeline),
    "inference": Part(tables.inference, check=False),
    "training": Part(tables.training, check=False),
    "choices": Part(choices.choices, check=False),
    "scaling": Part(tables.scaling, check=False),
    "profiles": Part(tables.profiles, check=False),
}


def run_part(name: str, settings: Settings, partial: Callable[[Any], None] = lambda result: None) -> dict[str, Any]:
    """Run a part in this process, and return its result, its status and the reason of a failure.

    Args:
        name: name of the part.
        settings: device and workload.
        partial: called with the result so far, if a part measures several tables.
    """
    part, start = PARTS[name], time.monotonic()
    outcome: dict[str, Any] = {"summary": part.summary, "status": "passed"}
    missing = [package for package in part.needs if importlib.util.find_spec(package) is None]
    if missing:
        return {**outcome, "status": "skipped", "seconds": 0.0, "reason": f"needs {', '.join(missing)}"}
    if settings.on_gpu:
        # compare float32 with float32: TF32 has 10 bits of precision
        torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = not part.check
    try:
        result = part.run(settings)
        if isinstance(result, Iterator):
            for found in result:
                outcome["result"] = found
                partial(found)
            result = found
        outcome["result"] = result
        rows = result["rows"] if isinstance(result, dict) else result
        failed = [row for row in rows if row.get("passed") is False or row.get("error")]
        if not rows or failed:
            outcome |= {"status": "failed", "reason": f"{len(failed)} of {len(rows)} rows failed"}
    except Exception:  # a failed part must not keep the others from running; the report has the traceback
        outcome |= {"status": "failed", "reason": traceback.format_exc()}
    return {**outcome, "seconds": time.monotonic() - start}


def _child(name: str, settings: Settings, connection: Connection) -> None:
    connection.send((True, run_part(name, settings, lambda result: connection.send((False, result)))))


class Child:
    """A part that runs in its own process, so that an error of the GPU ends this part only."""

    def __init__(self, name: str, settings: Settings) -> None:
        context = multiprocessing.get_context("spawn")
        self.name, self.start = name, time.monotonic()
        self.connection, theirs = context.Pipe(duplex=False)
        self.process = context.Process(target=_child, args=(name, settings, theirs))
        self.process.start()
        theirs.close()

    def outcome(self, deadline: float) -> dict[str, Any]:
        """Wait for the result until a time of `time.monotonic`, then end the process."""
        reason, partial = "it took too long", None
        try:
            while self.connection.poll(max(0.0, deadline - time.monotonic())):
                finished, message = self.connection.recv()
                if finished:
                    result: dict[str, Any] = message
                    return result
                partial = message
        except EOFError:
            self.process.join()
            reason = f"its process ended with code {self.process.exitcode}"
        finally:
            if self.process.is_alive():
                self.process.kill()
            self.process.join()
        seconds = time.monotonic() - self.start
        outcome = {"summary": PARTS[self.name].summary, "status": "failed", "seconds": seconds, "reason": reason}
        return outcome if partial is None else {**outcome, "result": partial}


def run_suite(
    names: Sequence[str], settings: Settings, budget: float, done: Callable[[str, dict[str, Any]], None]
) -> None:
    """Run parts, and call `done(name, outcome)` after each.

    Args:
        names: names of parts.
        settings: device and workload. On a CPU the parts run in this process.
        budget: seconds; parts that have not started then are reported as not run.
        done: called after each part.
    """
    end = time.monotonic() + budget
    checks = [name for name in names if PARTS[name].check]
    measurements = [name for name in names if not PARTS[name].check]
    if settings.on_gpu:
        # several models are compiled at the same time
        os.environ.setdefault("TORCHINDUCTOR_COMPILE_THREADS", "4")
        for child in [Child(name, settings) for name in checks]:
            done(child.name, child.outcome(min(end, child.start + PART_BUDGET)))
    for name in measurements if settings.on_gpu else (*checks, *measurements):
        if time.monotonic() > end:
            reason = f"the {budget:.0f} seconds were used by the parts before it"
            done(name, {"summary": PARTS[name].summary, "status": "not run", "seconds": 0.0, "reason": reason})
        elif settings.on_gpu:
            done(name, Child(name, settings).outcome(min(end, time.monotonic() + PART_BUDGET)))
        else:
            done(name, run_part(name, settings))


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m studies.gpu",
        description=__doc__,
        epilog="parts:\n" + "\n".join(f"  {name:<12} {part.summary}" for name, part in PARTS.items()),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"{', '.join(PARTS)} (default: all)")
    parser.add_argument("--device", default="cuda", help="torch device (default: cuda)")
    parser.add_argument("--smoke", action="store_true", help="tiny models, to test the suite; also with --device cpu")
    parser.add_argument("--budget", type=float, default=BUDGET, help="seconds for all parts (default: %(default)s)")
    parser.add_argument("-o", "--out", type=Path, default=Path("out/gpu"), help="folder (default: %(default)s)")
    parser.add_argument(
        "--render", type=Path, nargs="+", metavar="JSON", help="merge gpu.json files of several runs, measure nothing"
    )
    parser.add_argument("--json", action="store_true", help="print the report as JSON")
    args = parser.parse_args(argv)
    unknown = [name for name in args.parts if name not in PARTS]
    if unknown:
        raise InputError(f"There is no part {unknown[0]!r}; the parts are {', '.join(PARTS)}.")
    device = args.device.split(":")[0]
    if device not in ("cuda", "cpu"):
        raise InputError(f"--device must be cuda or cpu, got {args.device!r}.")
    if args.render is None and device == "cuda" and not torch.cuda.is_available():
        raise InputError("PyTorch finds no GPU on this machine, and the GPU suite needs one.")
    if args.render is None and device == "cpu" and not args.smoke:
        raise InputError("The full workloads need a GPU: add --smoke to run the suite with tiny models on the CPU.")
    return args


def _run(argv: Sequence[str] | None) -> int:
    args = _arguments(argv)
    args.out.mkdir(parents=True, exist_ok=True)
    if args.render is not None:
        whole = report.merge([json.loads(path.read_text()) for path in args.render])
        report.write(whole, args.out)
    else:
        whole = _measure(args)
    print(json.dumps(whole, indent=1) if args.json else report.markdown(whole))
    return 0 if all(part["status"] in ("passed", "skipped") for part in whole["parts"].values()) else 1


def _measure(args: argparse.Namespace) -> dict[str, Any]:
    settings = Settings(args.device, args.smoke)
    names = [name for name in PARTS if name in (args.parts or PARTS)]
    whole: dict[str, Any] = {
        "command": shlex.join(["python", "-m", "studies.gpu", *sys.argv[1:]]),
        "machine": describe_machine("cpu" if not settings.on_gpu else args.device, torch.get_num_threads()),
        "versions": versions(("torch", "torchvision", "timm", "triton", "lightning")),
        "parts": {},
    }
    with tqdm(total=len(names), unit="part", disable=None) as bar:

        def done(name: str, outcome: dict[str, Any]) -> None:
            whole["parts"][name] = outcome
            report.write(whole, args.out)
            bar.set_postfix_str(f"{name} {outcome['status']}")
            bar.update()

        run_suite(names, settings, args.budget, done)
    return whole


def main(argv: Sequence[str] | None = None) -> int:
    try:
        return _run(argv)
    except InputError as error:
        print(error, file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
