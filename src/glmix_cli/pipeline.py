"""Arguments and output of the commands on `glmix.inference`: predict, embed, segment and detect."""

import argparse
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .images import MAX_PIXELS, AcceptsArguments, exit_code, positive_integer, print_errors
from .printing import printable
from .results import print_file

if TYPE_CHECKING:
    from glmix.inference import Output, RayEngine, ResultFolder, Source, Summary

__all__ = [
    "add_pipeline_arguments",
    "add_precision_argument",
    "add_reading_arguments",
    "add_source_arguments",
    "compute",
    "finish",
    "store",
]


def add_pipeline_arguments(
    parser: argparse.ArgumentParser,
    output_required: bool,
    *,
    batch_size: int = 32,
    shard_size: int = 2048,
    formats: Sequence[str] = ("parquet", "jsonl", "csv"),
) -> None:
    """Add the images, the result folder and the options of the pipeline to a parser.

    Args:
        parser: the parser of a command.
        output_required: whether there must be a result folder.
        batch_size: default of --batch-size.
        shard_size: default of --shard-size.
        formats: choices of --format, the default first.
    """
    add_source_arguments(parser)
    results = parser.add_argument_group("results")
    results.add_argument(
        "-o",
        "--output",
        type=Path,
        metavar="FOLDER",
        required=output_required,
        help="write the results to files in this folder; the same command continues an interrupted run",
    )
    results.add_argument(
        "--format", choices=formats, default=formats[0], help="format of the rows in the folder (default: %(default)s)"
    )
    results.add_argument("--overwrite", action="store_true", help="delete earlier results in the folder")
    results.add_argument(
        "--shard-size",
        type=positive_integer,
        default=shard_size,
        metavar="N",
        help="images per file; an interruption loses at most the unfinished files (default: %(default)s)",
    )
    results.add_argument(
        "--share",
        type=_share,
        metavar="I/N",
        help="compute only share I of N, from 0, for the I-th of N processes with the same folder (default: the rank "
        "and number of processes that torchrun sets, else everything)",
    )
    speed = parser.add_argument_group("speed and memory")
    speed.add_argument(
        "--batch-size", type=positive_integer, default=batch_size, metavar="N", help="(default: %(default)s)"
    )
    speed.add_argument(
        "--device",
        default="cpu",
        help="torch device, such as cpu or cuda, with torchrun the GPU of each process (default: cpu)",
    )
    add_reading_arguments(speed)
    ray = parser.add_argument_group("Ray")
    ray.add_argument(
        "--engine",
        choices=("local", "ray"),
        default="local",
        help="where to decode and compute: in processes of this machine, or on a Ray cluster, which needs --output "
        "(default: %(default)s)",
    )
    ray.add_argument(
        "--ray-address",
        metavar="HOST:PORT",
        help="address of the cluster (default: the environment variable RAY_ADDRESS, else a cluster on this "
        "machine, which is started if there is none)",
    )
    ray.add_argument(
        "--ray-actors",
        type=_actors,
        metavar="N|MIN-MAX",
        help="number of processes with a model; Ray adds and removes processes between MIN and MAX (default: one per "
        "GPU, or without GPUs half of the CPUs)",
    )
    ray.add_argument(
        "--ray-cpus", type=positive_integer, metavar="N", help="CPUs per process without a GPU (default: 1)"
    )
    ray.add_argument(
        "--ray-gpus", type=float, metavar="N", help="GPUs per process, such as 0.5 (default: 1 if the cluster has GPUs)"
    )


def add_source_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the images to a parser."""
    parser.add_argument(
        "images",
        nargs="+",
        metavar="IMAGE",
        help="an image file; a folder, which is searched recursively; a quoted pattern such as 'photos/*.jpg'; a list "
        "(.txt, .csv, .jsonl or .parquet); a .tar file or 'shard-{000..127}.tar'; hf-dataset:NAME#SPLIT; or a URL "
        "that fsspec can read, such as s3://bucket/folder",
    )
    parser.add_argument("--column", metavar="NAME", help="column of the paths in a list (default: a usual name)")


def add_reading_arguments(parser: AcceptsArguments) -> None:
    """Add the number of worker processes and the limit on image sizes to a parser."""
    parser.add_argument(
        "--workers",
        type=int,
        metavar="N",
        help="processes that decode images (default: one per CPU core, none for a few images)",
    )
    parser.add_argument(
        "--max-pixels",
        type=positive_integer,
        default=MAX_PIXELS,
        metavar="N",
        help="report an error for images with more pixels, without decoding them (default: %(default)s)",
    )


def _actors(text: str) -> tuple[int, int]:
    first, _, last = text.partition("-")
    if not (first.isdecimal() and (last or first).isdecimal() and 1 <= int(first) <= int(last or first)):
        raise argparse.ArgumentTypeError(f"expected N or MIN-MAX, such as 4 or 1-8, got {text!r}")
    return int(first), int(last or first)


def add_precision_argument(parser: argparse.ArgumentParser) -> None:
    """Add --precision to a parser."""
    parser.add_argument(
        "--precision",
        choices=("float32", "bfloat16"),
        default="float32",
        help="dtype of the computation; bfloat16 has three significant digits and is faster on GPUs, and on processors "
        "with bfloat16 instructions (default: %(default)s)",
    )


def _share(text: str) -> tuple[int, int]:
    first, _, second = text.partition("/")
    if not (first.isdecimal() and second.isdecimal() and int(first) < int(second)):
        raise argparse.ArgumentTypeError(f"expected I/N with I from 0 to N - 1, such as 0/4, got {text!r}")
    return int(first), int(second)


def compute(
    args: argparse.Namespace,
    output: "Output",
    source: "Source",
    *,
    columns: Mapping[str, str] | None = None,
    save: Callable[[int, dict[str, Any]], None] | None = None,
    others: Sequence[str] = (),
    options: Mapping[str, Any] | None = None,
) -> tuple["Summary", "ResultFolder", list[dict[str, str]]]:
    """Run the pipeline with a result folder.

    Args:
        args: arguments of `add_pipeline_arguments`.
        output: what to compute.
        source: images.
        columns: columns that `save` adds to the rows.
        save: see `run_to_folder`.
        others: see `ResultFolder`.
        options: further options that identify the computation.

    Returns:
        The summary, the result folder, and the errors of this process's share of the images.
    """
    from glmix import inference

    engine = _engine(args)
    share = args.share or inference.share_of_process()
    identity = {
        "source": inference.fingerprint(source),
        "model": inference.model_fingerprint(output.model),
        **output.options,
        **(options or {}),
    }
    folder = inference.ResultFolder(
        args.output,
        identity,
        len(source),
        {**output.columns, **(columns or {})},
        format=args.format,
        shard_size=args.shard_size,
        overwrite=args.overwrite,
        exclusive=share[1] == 1,
        subfolder="rows" if others else "",
        others=others,
    )
    summary = inference.run_to_folder(
        output,
        source,
        folder,
        batch_size=args.batch_size,
        num_workers=args.workers,
        share=share,
        engine=engine,
        progress=True,
        save=save,
    )
    return summary, folder, [*source.problems, *folder.errors(folder.shards[share[0] :: share[1]])]


def store(command: str, args: argparse.Namespace, output: "Output", source: "Source") -> int:
    """Run the pipeline with a result folder, print a summary and return the exit code."""
    summary, _, errors = compute(args, output, source)
    return finish(command, args, summary, errors)


def finish(
    command: str,
    args: argparse.Namespace,
    summary: "Summary",
    errors: Sequence[Mapping[str, str]],
    report: Path | None = None,
) -> int:
    """Print a summary, or with --json the report if there is one, and the errors; return the exit code."""
    if args.json and report is not None:
        print_file(report)
    elif args.json:
        print(summary.json())
    else:
        print(
            f"{summary.images:,} images in {printable(str(args.output))}, {summary.errors:,} of them with errors; "
            f"{summary.computed:,} computed in {summary.seconds:.1f} s ({summary.images_per_second:.1f} images/s)"
        )
        if report is not None:
            print(printable(str(report)))
    print_errors(command, errors)
    return exit_code(summary.images - summary.errors, errors)


def _engine(args: argparse.Namespace) -> "RayEngine | None":
    from glmix.errors import InputError
    from glmix.inference import RayEngine

    if args.engine == "ray":
        return RayEngine(args.ray_address, args.ray_actors, args.ray_cpus or 1, args.ray_gpus)
    for name in ("address", "actors", "cpus", "gpus"):
        if getattr(args, f"ray_{name}") is not None:
            raise InputError(f"--ray-{name} needs --engine ray.")
    return None
