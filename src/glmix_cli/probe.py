"""`glmix probe`: measure how well embeddings separate classes."""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

from .images import positive_integer

HELP = "Measure k-NN and linear probe accuracy on embeddings that `glmix embed` wrote."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("train", type=Path, metavar="TRAIN", help="folder with the embeddings of the training images")
    parser.add_argument("test", type=Path, metavar="TEST", help="folder with the embeddings of the test images")
    parser.add_argument(
        "--labels",
        type=Path,
        metavar="FILE",
        help="table (.csv, .tsv, .jsonl or .parquet) with the columns path and label, for the images of both folders "
        "(default: the label of an image is the name of the folder that contains it)",
    )
    parser.add_argument("--column", metavar="NAME", help="column of the vectors (default: the only one)")
    parser.add_argument(
        "--neighbors", type=positive_integer, nargs="+", default=[10, 20], metavar="K", help="(default: 10 20)"
    )
    parser.add_argument(
        "--shots",
        type=positive_integer,
        nargs="+",
        default=[],
        metavar="N",
        help="also train the linear probe on N random training images per class",
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of the random choices (default: 0)")
    parser.add_argument("--json", action="store_true", help="print the results as JSON")


def run(args: argparse.Namespace) -> int:
    import numpy as np

    from glmix.errors import InputError
    from glmix.inference import knn_classify, linear_probe, load_embeddings

    train, test = (load_embeddings(folder, args.column) for folder in (args.train, args.test))
    names = None if args.labels is None else _read_labels(args.labels)
    train_labels, test_labels = (_labels(part.keys, names, args.labels) for part in (train, test))
    classes = sorted(set(train_labels))
    unknown = sorted(set(test_labels) - set(classes))
    if unknown:
        raise InputError(f"{args.test} has images of the class {unknown[0]}, which {args.train} has no images of.")
    y, truth = (np.array([classes.index(name) for name in part]) for part in (train_labels, test_labels))
    results: dict[str, float] = {}
    for k in args.neighbors:
        accuracy = float((knn_classify(train.vectors, y, test.vectors, k) == truth).mean())
        results[f"{k}-NN"] = accuracy
    probe = linear_probe(train.vectors, y, test.vectors, truth, seed=args.seed)
    results["linear probe"] = probe.accuracy
    generator = np.random.default_rng(args.seed)
    for shots in args.shots:
        chosen = np.concatenate([generator.permutation(np.flatnonzero(y == c))[:shots] for c in range(len(classes))])
        few = linear_probe(train.vectors[chosen], y[chosen], test.vectors, truth, seed=args.seed)
        results[f"linear probe, {shots} per class"] = few.accuracy
    if args.json:
        print(json.dumps({"train": len(y), "test": len(truth), "classes": classes, "accuracy": results}, indent=2))
    else:
        print(f"{len(classes)} classes, {len(y):,} training and {len(truth):,} test images")
        for name, accuracy in results.items():
            print(f"{accuracy:8.2%}  {name}")
    return 0


def _labels(keys: Sequence[str], names: dict[str, str] | None, file: Path | None) -> list[str]:
    """Return the class name of each image."""
    from glmix.errors import InputError

    if names is None:
        return [Path(key).parent.name for key in keys]
    missing = [key for key in keys if key not in names]
    if missing:
        raise InputError(f"{file} has no label for {len(missing)} images, such as {missing[0]}.")
    return [names[key] for key in keys]


def _read_labels(file: Path) -> dict[str, str]:
    from glmix.data.core.tables import read_table

    table = read_table(file)
    option = "--labels to a table with the columns path and label"
    return dict(zip(table.column("path", option), table.column("label", option), strict=True))
