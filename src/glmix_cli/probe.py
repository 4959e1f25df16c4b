"""`glmix probe`: measure how well embeddings separate classes."""

import argparse
import json
from pathlib import Path
from typing import Any

from .images import positive_integer
from .labels import add_labels_argument, image_labels

HELP = "Measure k-NN and linear probe accuracy on embeddings that `glmix embed` wrote."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("train", type=Path, metavar="TRAIN", help="folder with the embeddings of the training images")
    parser.add_argument("test", type=Path, metavar="TEST", help="folder with the embeddings of the test images")
    add_labels_argument(parser, "the images of both folders")
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
    parser.add_argument(
        "--repeats",
        type=positive_integer,
        default=5,
        metavar="N",
        help="random subsets for each number of --shots; their mean and standard deviation are printed (default: 5)",
    )
    parser.add_argument("--seed", type=int, default=0, help="random seed of the subsets (default: 0)")
    parser.add_argument("--json", action="store_true", help="print the results as JSON")


def run(args: argparse.Namespace) -> int:
    import numpy as np

    from glmix.errors import InputError
    from glmix.inference import few_shot_probes, knn_classify, linear_probe, load_embeddings

    train, test = (load_embeddings(folder, args.column, slots=False) for folder in (args.train, args.test))
    train_labels, test_labels = (image_labels(part.keys, args.labels) for part in (train, test))
    classes = sorted(set(train_labels))
    unknown = sorted(set(test_labels) - set(classes))
    if unknown:
        raise InputError(f"{args.test} has images of the class {unknown[0]}, but {args.train} has none.")
    if len(classes) < 2:
        raise InputError(f"{args.train} has images of {len(classes)} class: a probe needs at least two classes.")
    y, truth = (np.array([classes.index(name) for name in part]) for part in (train_labels, test_labels))
    results: dict[str, float] = {}
    for k in args.neighbors:
        accuracy = float((knn_classify(train.vectors, y, test.vectors, k) == truth).mean())
        results[f"{k}-NN"] = accuracy
    probe = linear_probe(train.vectors, y, test.vectors, truth, seed=args.seed)
    results["linear probe"] = probe.accuracy
    few: list[dict[str, Any]] = []
    for shots in args.shots:
        found = few_shot_probes(train.vectors, y, test.vectors, truth, shots, repeats=args.repeats, seed=args.seed)
        # the sample standard deviation is undefined for a single value
        spread = float(np.std(found, ddof=1)) if len(found) > 1 else None
        few.append({"shots": shots, "mean": float(np.mean(found)), "std": spread, "accuracies": found})
    if args.json:
        report = {
            "train": len(y),
            "test": len(truth),
            "classes": classes,
            "accuracy": results,
            "linear_probe": {"regularization": probe.regularization, "sweep": probe.sweep},
            "few_shot": few,
        }
        print(json.dumps(report, indent=2))
        return 0
    print(f"{len(classes)} classes, {len(y):,} training and {len(truth):,} test images")
    for name, accuracy in results.items():
        print(f"{accuracy:8.2%}  {name}" + (f", C = {probe.regularization:g}" if name == "linear probe" else ""))
    for row in few:
        name = f"linear probe, {row['shots']} per class"
        deviation = "" if row["std"] is None else f", standard deviation {row['std']:.2%} over {args.repeats} subsets"
        print(f"{row['mean']:8.2%}  {name}{deviation}")
    return 0
