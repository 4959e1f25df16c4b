"""`glmix embed`: compute feature vectors of images."""

import argparse

from .inputs import add_model_arguments, add_view_argument, check_device, load_network
from .pipeline import add_pipeline_arguments, add_precision_argument, store

HELP = "Compute feature vectors (embeddings) of images: files, folders, lists, tar files, data sets or URLs."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_pipeline_arguments(parser, output_required=True)
    add_precision_argument(parser)
    add_model_arguments(parser)
    add_view_argument(parser, default="crop")
    what = parser.add_mutually_exclusive_group()
    what.add_argument(
        "--stages",
        type=int,
        nargs="+",
        metavar="N",
        help="indices of stages, from 0, whose average-pooled feature maps are stored (default: the input of the "
        "classifier)",
    )
    what.add_argument(
        "--slots",
        action="store_true",
        help="store the slots of one block as vectors, with the pixels of each slot, to search for parts of images",
    )
    parser.add_argument(
        "--block",
        type=int,
        default=-1,
        metavar="N",
        help="with --slots: index of the block among those with slots, from 0; negative from the end (default: -1)",
    )
    parser.add_argument("--normalize", action="store_true", help="L2-normalise each vector")
    parser.add_argument(
        "--dtype", choices=("float32", "float16"), default="float32", help="dtype of the stored vectors (%(default)s)"
    )
    parser.add_argument("--json", action="store_true", help="print the summary as JSON")


def run(args: argparse.Namespace) -> int:
    from glmix import inference

    check_device(args.device)
    network = load_network(args.model, args.checkpoint).to(args.device)
    options = (args.normalize, args.dtype, args.view, args.max_pixels, args.precision)
    output: inference.Embedding | inference.SlotEmbedding
    if args.slots:
        output = inference.SlotEmbedding(network, args.block, *options)
    else:
        output = inference.Embedding(network, args.stages, *options)
    source = inference.open_source(args.images, args.column, arrays=output.read.channels != 3)
    return store("embed", args, output, source)
