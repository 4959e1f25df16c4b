"""`glmix embed`: compute feature vectors of images."""

import argparse

from .inputs import add_model_arguments, add_view_argument, check_device, load_network
from .pipeline import add_pipeline_arguments, store

HELP = "Compute feature vectors (embeddings) of images: files, folders, lists, tar files, data sets or URLs."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_pipeline_arguments(parser, output_required=True)
    add_model_arguments(parser)
    add_view_argument(parser, default="crop")
    parser.add_argument(
        "--stages",
        type=int,
        nargs="+",
        metavar="N",
        help="numbers of the stages, from 0, whose feature maps are averaged (default: the input of the classifier)",
    )
    parser.add_argument("--normalize", action="store_true", help="divide each vector by its Euclidean norm")
    parser.add_argument("--dtype", choices=("float32", "float16"), default="float32", help="(default: %(default)s)")
    parser.add_argument("--json", action="store_true", help="print the summary as JSON")


def run(args: argparse.Namespace) -> int:
    from glmix import inference

    check_device(args.device)
    network = load_network(args.model, args.checkpoint).to(args.device)
    output = inference.Embedding(network, args.stages, args.normalize, args.dtype, args.view, args.max_pixels)
    source = inference.open_source(args.images, args.column, arrays=output.read.channels != 3)
    return store("embed", args, output, source)
