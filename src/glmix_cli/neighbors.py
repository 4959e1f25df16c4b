"""`glmix neighbors`: search a collection of embeddings by image, and find near-duplicates."""

import argparse
import json
from pathlib import Path
from typing import Any

from .images import positive_integer
from .printing import printable

HELP = "Find similar images, or near-duplicates, with embeddings that `glmix embed` wrote."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("collection", type=Path, metavar="FOLDER", help="folder with the embeddings of a collection")
    parser.add_argument(
        "--queries",
        type=Path,
        metavar="FOLDER",
        help="folder with the embeddings of the images to search for, from the same model (default: every image of "
        "the collection is a query, and is left out of its own results)",
    )
    parser.add_argument(
        "--duplicates",
        type=float,
        metavar="SIMILARITY",
        help="instead, list groups of images whose cosine similarity is at least this, such as 0.98",
    )
    parser.add_argument("-k", type=positive_integer, default=5, help="results per query (default: 5)")
    parser.add_argument("--column", metavar="NAME", help="column of the vectors (default: the only one)")
    parser.add_argument("--device", default="cpu", help="torch device, such as cpu or cuda (default: cpu)")
    parser.add_argument("--html", type=Path, metavar="FILE", help="also write a page with thumbnails of the results")
    parser.add_argument("--json", action="store_true", help="print the results as JSON")


def run(args: argparse.Namespace) -> int:
    from glmix import inference
    from glmix.errors import InputError

    from .inputs import check_device

    check_device(args.device)
    if args.duplicates is not None and not -1 <= args.duplicates <= 1:
        raise InputError(f"--duplicates must be a cosine similarity from -1 to 1, got {args.duplicates}.")
    collection = inference.load_embeddings(args.collection, args.column)
    rows: list[dict[str, Any]]
    if args.duplicates is not None:
        groups = inference.near_duplicates(collection.vectors, args.duplicates, device=args.device)
        rows = [{"group": [collection.keys[index] for index in group]} for group in groups]
        sections = [(f"{len(row['group'])} images", [(key, "") for key in row["group"]]) for row in rows]
    else:
        rows = _search(args, collection)
        sections = [
            ("", [(row["file"], "query"), *((hit["file"], f"{hit['similarity']:.3f}") for hit in row["neighbors"])])
            for row in rows
        ]
    if args.html is not None:
        from glmix.inference.contact_sheet import write_contact_sheet

        title = "Near-duplicates" if args.duplicates is not None else "Similar images"
        write_contact_sheet(args.html, f"{title} in {args.collection}", sections)
    if args.json:
        print(json.dumps(rows, indent=2))
        return 0
    for row in rows:
        if "group" in row:
            print("\n".join(map(printable, row["group"])), end="\n\n")
        else:
            print(printable(row["file"]))
            for hit in row["neighbors"]:
                print(f"  {hit['similarity']:.4f}  {printable(hit['file'])}")
    return 0


def _search(args: argparse.Namespace, collection: Any) -> list[dict[str, Any]]:
    from glmix.inference import load_embeddings, nearest

    queries = collection if args.queries is None else load_embeddings(args.queries, args.column)
    own = args.queries is None
    scores, found = nearest(queries.vectors, collection.vectors, args.k + own, device=args.device)
    rows = []
    for number, key in enumerate(queries.keys):
        hits = [
            {"file": collection.keys[index], "similarity": float(score)}
            for score, index in zip(scores[number], found[number], strict=True)
            if not (own and index == number)
        ]
        rows.append({"file": key, "neighbors": hits[: args.k]})
    return rows
