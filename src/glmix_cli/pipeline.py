"""Arguments and output of the commands on `glmix.inference`: predict and embed."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from .images import MAX_PIXELS, exit_code, positive_integer, print_errors
from .printing import printable

if TYPE_CHECKING:
    from glmix.inference import Output, Source

__all__ = ["add_pipeline_arguments", "add_precision_argument", "store"]


def add_pipeline_arguments(parser: argparse.ArgumentParser, output_required: bool) -> None:
    """Add the images, the result folder and the options of the pipeline to a parser."""
    parser.add_argument(
        "images",
        nargs="+",
        metavar="IMAGE",
        help="an image file; a folder, which is searched recursively; a quoted pattern such as 'photos/*.jpg'; a list "
        "(.txt, .csv, .jsonl or .parquet); a .tar file or 'shard-{000..127}.tar'; hf-dataset:NAME#SPLIT; or a URL "
        "that fsspec can read, such as s3://bucket/folder",
    )
    parser.add_argument("--column", metavar="NAME", help="column of the paths in a list (default: a usual name)")
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
        "--format", choices=("parquet", "jsonl", "csv"), default="parquet", help="format of the files in the folder"
    )
    results.add_argument("--overwrite", action="store_true", help="delete earlier results in the folder")
    results.add_argument(
        "--shard-size",
        type=positive_integer,
        default=2048,
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
    speed.add_argument("--batch-size", type=positive_integer, default=32, metavar="N", help="(default: %(default)s)")
    speed.add_argument(
        "--workers",
        type=int,
        metavar="N",
        help="processes that decode images (default: one per CPU core, none for a few images)",
    )
    speed.add_argument("--device", default="cpu", help="torch device, such as cpu or cuda (default: cpu)")
    speed.add_argument(
        "--max-pixels",
        type=positive_integer,
        default=MAX_PIXELS,
        metavar="N",
        help="report an error for images with more pixels, without decoding them (default: %(default)s)",
    )


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


def store(command: str, args: argparse.Namespace, output: "Output", source: "Source") -> int:
    """Run the pipeline with a result folder, print a summary and return the exit code."""
    from glmix import inference

    share = args.share or inference.share_of_process()
    identity = {
        "source": inference.fingerprint(source),
        "model": inference.model_fingerprint(output.model),
        **output.options,
    }
    folder = inference.ResultFolder(
        args.output,
        identity,
        len(source),
        output.columns,
        format=args.format,
        shard_size=args.shard_size,
        overwrite=args.overwrite,
        exclusive=share[1] == 1,
    )
    summary = inference.run_to_folder(
        output,
        source,
        folder,
        batch_size=args.batch_size,
        num_workers=args.workers,
        share=share,
        progress=True,
    )
    errors = [*source.problems, *folder.errors(folder.shards[share[0] :: share[1]])]
    if args.json:
        print(summary.json())
    else:
        print(
            f"{summary.images:,} images in {printable(str(args.output))}, {summary.errors:,} of them with errors; "
            f"{summary.computed:,} computed in {summary.seconds:.1f} s ({summary.images_per_second:.1f} images/s)"
        )
    print_errors(command, errors)
    return exit_code(summary.images - summary.errors, errors)
