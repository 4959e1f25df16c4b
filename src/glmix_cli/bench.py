"""`glmix bench`: benchmark models against each other in one run."""

import argparse
import json
import shlex
import sys
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from glmix.bench import Plan

HELP = "Benchmark models: throughput, latency, peak memory, scaling with resolution, training steps."
FILES = ("bench.md", "bench.png", "bench.json")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        f"{HELP} Each combination of model and form runs in a separate process. The processes are measured in turns, "
        "so that changes in the speed of the machine affect all of them alike."
    )
    parser.epilog = (
        "Example: glmix bench glnet_stl convnext_tiny --forms eager optimized+bf16+compiled -o out/bench. "
        "docs/bench.md explains each number and the words of --forms: eager, plain, fused, optimized, channels_last, "
        "keep_memory, bf16, int8, compiled, cuda_graphs, onnxruntime, openvino."
    )
    parser.add_argument(
        "models",
        nargs="*",
        metavar="MODEL",
        help="timm model names, including the GLNets, optionally with arguments as in Python: "
        "'glnet_stl(num_slots=16)' (default: all GLNets)",
    )
    parser.add_argument(
        "--forms",
        nargs="+",
        metavar="FORM",
        help="execution modes, words joined by + (default: eager optimized optimized+bf16; with --train eager bf16)",
    )
    kinds = parser.add_mutually_exclusive_group()
    kinds.add_argument(
        "--scaling",
        nargs="*",
        type=int,
        metavar="SIZE",
        help="measure time and memory per megapixel at several image sizes (default: 224 512 1024 2048)",
    )
    kinds.add_argument("--train", action="store_true", help="measure training steps: forward, backward, AdamW")
    kinds.add_argument("--profile", action="store_true", help="print the time of each operator in one forward pass")
    kinds.add_argument("--render", type=Path, metavar="JSON", help="show the results in a bench.json, measure nothing")
    parser.add_argument(
        "--stages", action="store_true", help="with --scaling: also measure the time of each stage of a GLNet"
    )
    parser.add_argument("--batch", type=int, help="batch size (default: 8, with --train 16, with --scaling 1)")
    parser.add_argument("--size", type=int, help="image height and width (default: the input size of each model)")
    parser.add_argument("--runs", type=int, default=10, help="number of timed passes per model and form (default: 10)")
    parser.add_argument(
        "--latency-runs",
        type=int,
        default=100,
        metavar="N",
        help="number of timed passes with batch size 1, 0 for none (default: 100)",
    )
    parser.add_argument("--threads", type=int, help="number of CPU threads (default: PyTorch's default)")
    parser.add_argument("--device", default="cpu", help="torch device: cpu or cuda (default: cpu)")
    parser.add_argument("-o", "--out", type=Path, metavar="FOLDER", help=f"folder for {', '.join(FILES)}")
    parser.add_argument("--overwrite", action="store_true", help="replace these files if they exist")
    parser.add_argument("--json", action="store_true", help="print the results as JSON")


def run(args: argparse.Namespace) -> int:
    from glmix.errors import InputError

    if args.profile and args.out is not None:
        raise InputError("--profile prints tables and writes no files; it cannot be combined with -o.")
    if args.stages and args.scaling is None:
        raise InputError("--stages needs --scaling.")
    if args.size is not None and args.scaling is not None:
        raise InputError("--scaling sets the image sizes; it cannot be combined with --size.")
    from glmix.bench import measure
    from glmix.bench.report import format_results

    plan = None
    if args.render is None:
        plan = _plan(args)
        plan.check()
    elif args.models or args.forms:
        raise InputError("--render measures nothing; it cannot be combined with models or --forms.")
    targets = _targets(args.out, args.overwrite)
    if plan is None:
        result = _read(args.render)
    else:
        result = {"command": shlex.join(["glmix", *sys.argv[1:]]), **measure(plan, _progress)}
    if targets:
        _write(result, targets)
    print(json.dumps(result, indent=1) if args.json else format_results(result))
    failed = [row for row in result["rows"] if row["error"] is not None]
    return 0 if not failed else 1 if len(failed) < len(result["rows"]) else 2


def _plan(args: argparse.Namespace) -> "Plan":
    from glmix.bench import Plan
    from glmix.models import MODEL_NAMES

    chosen: dict[str, Any] = {"kind": "inference"}
    if args.scaling is not None:
        chosen = {"kind": "scaling", "sizes": tuple(args.scaling), "forms": ("eager",)}
    elif args.profile:
        chosen = {"kind": "profile", "forms": ("eager",)}
    elif args.train:
        chosen = {"kind": "training", "forms": ("eager", "bf16")}
    if args.forms:
        chosen["forms"] = tuple(args.forms)
    if args.size is not None:
        chosen["sizes"] = (args.size,)
    return Plan(
        models=tuple(args.models) or MODEL_NAMES,
        batch=args.batch,
        runs=args.runs,
        latency_runs=args.latency_runs,
        stages=args.stages,
        threads=args.threads,
        device=args.device,
        **chosen,
    )


def _progress(items: Sequence[Any], what: str) -> Iterable[Any]:
    from tqdm import tqdm

    bar: Iterable[Any] = tqdm(items, desc=what, disable=None, leave=False)
    return bar


def _targets(folder: Path | None, overwrite: bool) -> list[Path]:
    """Return the output files after checking that they can be written."""
    if folder is None:
        return []
    from glmix.bench.plot import require_matplotlib
    from glmix.files import check_writable

    require_matplotlib()
    folder.mkdir(parents=True, exist_ok=True)
    targets = [folder / name for name in FILES]
    check_writable(targets, overwrite)
    return targets


def _read(path: Path) -> dict[str, Any]:
    from glmix.errors import InputError

    try:
        result: dict[str, Any] = json.loads(path.read_text())
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{path} is not a bench.json: {error}") from error
    if not isinstance(result, dict) or not {"kind", "machine", "settings", "matmul", "rows"} <= set(result):
        raise InputError(f"{path} is not a bench.json: it lacks entries that `glmix bench -o` writes.")
    return result


def _write(result: dict[str, Any], targets: Sequence[Path]) -> None:
    """Write all files, or none if one of them fails."""
    from glmix.bench import draw, format_report
    from glmix.files import publish

    contents = (format_report(result).encode(), draw(result), (json.dumps(result, indent=1) + "\n").encode())
    with tempfile.TemporaryDirectory() as folder:
        made = [Path(folder) / target.name for target in targets]
        for path, content in zip(made, contents, strict=True):
            path.write_bytes(content)
        publish(list(zip(made, targets, strict=True)))
