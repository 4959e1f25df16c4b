"""CPU time and recall of exact and approximate search with `glmix.inference.build_index`.

    python -m studies.timing.search --count 50000 --queries 5000

The vectors are random clusters. Recall is the share of the ten nearest vectors that are found.
"""

import argparse
import os
import time

import numpy as np
import torch

from glmix import inference
from glmix.bench.machine import describe_machine
from glmix.inference.search import INDEXES


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=50_000, help="vectors in the collection (%(default)s)")
    parser.add_argument("--queries", type=int, default=5_000, help="(%(default)s)")
    parser.add_argument("--dimensions", type=int, default=256, help="(%(default)s)")
    args = parser.parse_args()
    generator = np.random.default_rng(0)
    centres = generator.normal(size=(args.count // 100, args.dimensions))
    vectors = centres[generator.integers(0, len(centres), args.count)] + generator.normal(
        size=(args.count, args.dimensions)
    )
    vectors = vectors.astype(np.float32)
    queries = vectors[generator.permutation(args.count)[: args.queries]]
    _, expected = inference.nearest(queries, vectors, 10)
    machine = describe_machine("cpu", torch.get_num_threads())
    print(f"{args.count:,} vectors of {args.dimensions} dimensions, {args.queries:,} queries; {machine['cpu']}")
    print(f"{os.cpu_count()} cores, {machine['threads']} threads\n")
    print("| index | CPU s to build | CPU s to search | recall |\n|---|---:|---:|---:|")
    for index in INDEXES:
        started = time.process_time()
        search = inference.build_index(vectors, index)
        built = time.process_time()
        _, found = search(queries, 10)
        ended = time.process_time()
        recall = np.mean([len(set(one) & set(other)) / 10 for one, other in zip(found, expected, strict=True)])
        print(f"| {index} | {built - started:.1f} | {ended - built:.1f} | {recall:.3f} |")


if __name__ == "__main__":
    main()
