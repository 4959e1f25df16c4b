"""`glmix neighbors`: search a collection of embeddings by image or by part of an image, and find near-duplicates."""

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .images import positive_integer
from .printing import printable

if TYPE_CHECKING:
    from glmix.inference import Embeddings
    from glmix.inference.contact_sheet import Picture

HELP = "Find similar images, similar parts of images, or near-duplicates, with embeddings that `glmix embed` wrote."

Section = tuple[str, "list[Picture]"]


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
    parser.add_argument(
        "--index",
        choices=("exact", "faiss", "hnsw"),
        default="exact",
        help="exact search, or approximate search for many queries in a large collection, with faiss-cpu or hnswlib, "
        "which misses some of the nearest images (default: %(default)s)",
    )
    parser.add_argument("--device", default="cpu", help="torch device, such as cpu or cuda (default: cpu)")
    parts = parser.add_argument_group("parts of images, with the vectors of `glmix embed --slots`")
    parts.add_argument(
        "--part",
        metavar="IMAGE",
        help="search for a part of this image: its key or the end of its key, such as cats/1.jpg, in --queries if "
        "given, else in the collection",
    )
    chosen = parts.add_mutually_exclusive_group()
    chosen.add_argument("--slot", type=int, nargs="+", metavar="N", help="indices of the slots that form the part")
    chosen.add_argument(
        "--point", type=float, nargs=2, metavar=("X", "Y"), help="use the slot at this pixel of the image as the part"
    )
    output = parser.add_argument_group("output")
    output.add_argument("--html", type=Path, metavar="FILE", help="also write a page with thumbnails of the results")
    output.add_argument(
        "--source",
        nargs="+",
        metavar="IMAGES",
        help="images for the thumbnails, given as to `glmix embed`; needed for tar files and data sets (default: the "
        "keys are used as paths)",
    )
    output.add_argument("--json", action="store_true", help="print the results as JSON")


def run(args: argparse.Namespace) -> int:
    from glmix import inference
    from glmix.errors import InputError

    from .inputs import check_device

    check_device(args.device)
    if args.duplicates is not None and not -1 <= args.duplicates <= 1:
        raise InputError(f"--duplicates must be a cosine similarity from -1 to 1, got {args.duplicates}.")
    if (args.part is None) != (args.slot is None and args.point is None):
        raise InputError("A search for a part of an image needs --part IMAGE together with --slot or --point.")
    collection = inference.load_embeddings(args.collection, args.column, slots=args.part is not None)
    if args.part is not None:
        title, (rows, sections) = "Similar parts", _search_part(args, collection)
    elif args.duplicates is not None:
        title, (rows, sections) = "Near-duplicates", _duplicates(args, collection)
    else:
        title, (rows, sections) = "Similar images", _search(args, collection)
    if args.html is not None:
        from glmix.inference.contact_sheet import write_contact_sheet
        from glmix.inference.thumbnails import Thumbnails

        source = None if args.source is None else inference.open_source(args.source)
        write_contact_sheet(args.html, f"{title} in {args.collection}", sections, Thumbnails(source))
    if args.json:
        print(json.dumps(rows, indent=2))
        return 0
    for row in rows:
        if "group" in row:
            print("\n".join(map(printable, row["group"])), end="\n\n")
            continue
        print(printable(row["file"]) + (f"  slot {', '.join(map(str, row['slots']))}" if "slots" in row else ""))
        for hit in row["neighbors"]:
            slot = f"  slot {hit['slot']}" if "slot" in hit else ""
            print(f"  {hit['similarity']:.4f}  {printable(hit['file'])}{slot}")
    return 0


def _duplicates(args: argparse.Namespace, collection: "Embeddings") -> tuple[list[dict[str, Any]], list[Section]]:
    from glmix.inference import near_duplicates
    from glmix.inference.contact_sheet import Picture

    groups = near_duplicates(collection.vectors, args.duplicates, device=args.device)
    rows = [{"group": [collection.keys[index] for index in group]} for group in groups]
    return rows, [(f"{len(row['group'])} images", list(map(Picture, row["group"]))) for row in rows]


def _search(args: argparse.Namespace, collection: "Embeddings") -> tuple[list[dict[str, Any]], list[Section]]:
    from glmix.inference import load_embeddings, nearest
    from glmix.inference.contact_sheet import Picture

    queries = collection if args.queries is None else load_embeddings(args.queries, args.column, slots=False)
    own = args.queries is None
    scores, found = nearest(queries.vectors, collection.vectors, args.k + own, index=args.index, device=args.device)
    rows: list[dict[str, Any]] = []
    for number, key in enumerate(queries.keys):
        hits = [
            {"file": collection.keys[index], "similarity": float(score)}
            for score, index in zip(scores[number], found[number], strict=True)
            if index >= 0 and not (own and index == number)  # -1: an approximate search found fewer
        ]
        rows.append({"file": key, "neighbors": hits[: args.k]})
    sections: list[Section] = [
        ("", [Picture(row["file"], "query"), *(Picture(h["file"], f"{h['similarity']:.3f}") for h in row["neighbors"])])
        for row in rows
    ]
    return rows, sections


def _search_part(args: argparse.Namespace, collection: "Embeddings") -> tuple[list[dict[str, Any]], list[Section]]:
    from glmix.errors import InputError
    from glmix.inference import load_embeddings, nearest_parts
    from glmix.inference.contact_sheet import Picture

    queries = collection if args.queries is None else load_embeddings(args.queries, args.column, slots=True)
    of_queries, of_collection = queries.require_slots(), collection.require_slots()
    image = _find_image(queries.keys, args.part)
    slots = args.slot or [of_queries.slot_at(image, *args.point)]
    vectors = queries.vectors[of_queries.images == image].astype("float32")
    if not all(0 <= slot < len(vectors) for slot in slots):
        raise InputError(f"--slot takes slot indices from 0 to {len(vectors) - 1}, got {' '.join(map(str, slots))}.")
    chosen = vectors[slots] / (vectors[slots] ** 2).sum(1, keepdims=True) ** 0.5
    own = image if queries is collection else None
    found = nearest_parts(chosen.mean(0), collection, args.k, exclude=own, device=args.device)
    hits = [
        {"file": collection.keys[place], "similarity": score, "slot": slot, "box": of_collection.box(place, slot)}
        for score, place, slot in found
    ]
    name = "slot" if len(slots) == 1 else "slots"
    pictures = [
        Picture(queries.keys[image], f"query, {name} {', '.join(map(str, slots))}", _part(queries, image, *slots))
    ]
    pictures += [
        Picture(collection.keys[place], f"{score:.3f}, slot {slot}", _part(collection, place, slot))
        for score, place, slot in found
    ]
    return [{"file": queries.keys[image], "slots": slots, "neighbors": hits}], [("", pictures)]


def _find_image(keys: list[str], name: str) -> int:
    """Return the index of the image with a key, or with the only key that ends with a name."""
    from glmix.errors import InputError

    found = [index for index, key in enumerate(keys) if key == name]
    found = found or [index for index, key in enumerate(keys) if key.endswith(f"/{name}")]
    if len(found) != 1:
        several = f": {keys[found[0]]} and {len(found) - 1} more" if found else ""
        raise InputError(f"--part {name} matches {len(found) or 'no'} images{several}; give the key of one image.")
    return found[0]


def _part(embeddings: "Embeddings", image: int, *slots: int) -> Any:
    from glmix.inference.thumbnails import Part

    of = embeddings.require_slots()
    left, top, right, bottom = of.regions[image].tolist()
    width, height = of.sizes[image].tolist()
    return Part(of.mask(image, *slots), (left, top, right, bottom), (width, height))
