"""`glmix map`: a map of a collection of images as one HTML page."""

import argparse
from pathlib import Path

from .images import positive_integer
from .labels import add_labels_argument, image_labels
from .printing import printable

HELP = "Draw a 2-D map of a collection as one HTML page, with embeddings that `glmix embed` wrote."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("collection", type=Path, metavar="FOLDER", help="folder with the embeddings of a collection")
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="FILE", help="HTML file to write")
    parser.add_argument(
        "--method",
        choices=("pca", "tsne", "umap"),
        default="pca",
        help="projection to two dimensions: pca is linear; tsne and umap (package umap-learn) keep similar images "
        "together and take longer (default: %(default)s)",
    )
    add_labels_argument(parser, "all images")
    parser.add_argument("--column", metavar="NAME", help="column of the vectors (default: the only one)")
    parser.add_argument(
        "--source",
        nargs="+",
        metavar="IMAGES",
        help="images for the thumbnails, given as to `glmix embed`; needed for tar files and data sets (default: the "
        "keys are used as paths)",
    )
    parser.add_argument("--title", metavar="TEXT", help="title of the page (default: the name of the folder)")
    parser.add_argument(
        "--max-points",
        type=positive_integer,
        default=5000,
        metavar="N",
        help="maximum number of images; a larger collection is sampled at random (default: %(default)s)",
    )
    parser.add_argument(
        "--max-megabytes",
        type=positive_integer,
        default=15,
        metavar="N",
        help="maximum total size of the thumbnails, which determines their resolution (default: %(default)s)",
    )
    parser.add_argument("--seed", type=int, default=0, help="random seed of the sample and the projection (default: 0)")
    parser.add_argument("--json", action="store_true", help="print a summary as JSON")


def run(args: argparse.Namespace) -> int:
    from glmix import inference
    from glmix.inference.collection_map import write_map
    from glmix.inference.thumbnails import Thumbnails

    collection = inference.load_embeddings(args.collection, args.column, slots=False)
    summary = write_map(
        args.output,
        collection.keys,
        collection.vectors,
        image_labels(collection.keys, args.labels),
        title=args.title or args.collection.resolve().name,
        method=args.method,
        max_points=args.max_points,
        max_bytes=args.max_megabytes * 1_000_000,
        seed=args.seed,
        thumbnails=Thumbnails(None if args.source is None else inference.open_source(args.source)),
        progress=True,
    )
    if args.json:
        print(summary.json())
        return 0
    size = f" of {summary.thumbnail_size} pixels" if summary.thumbnails else ""
    print(
        f"{printable(str(args.output))}: {summary.points:,} images, {summary.thumbnails:,} thumbnails{size}, "
        f"{summary.bytes / 1e6:.1f} MB; {summary.projection}"
    )
    if summary.left_out:
        print(f"{summary.left_out:,} images are not shown: raise --max-points to show more.")
    return 0
