"""Search for similar vectors by cosine similarity: exact, or approximate with FAISS or hnswlib."""

from collections.abc import Callable
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..errors import InputError, MissingExtraError
from .embeddings import Embeddings

__all__ = ["INDEXES", "Index", "build_index", "near_duplicates", "nearest", "nearest_parts"]

BLOCK = 1 << 24  # similarities computed at a time
ROWS = 1 << 16  # vectors of the collection that are converted to float32 and normalised at a time

Index = Literal["exact", "faiss", "hnsw"]
INDEXES: tuple[Index, ...] = ("exact", "faiss", "hnsw")
Found = tuple[NDArray[np.float32], NDArray[np.int64]]
Search = Callable[[NDArray[Any], int], Found]


def nearest(
    queries: NDArray[Any], collection: NDArray[Any], k: int = 10, *, index: Index = "exact", device: str = "cpu"
) -> Found:
    """Return the most similar vectors of a collection by cosine similarity.

    Args:
        queries: vectors (Q, D).
        collection: vectors (N, D).
        k: number of results per query; at most N are returned.
        index: see `build_index`.
        device: torch device of an exact search.

    Returns:
        The similarities (Q, k), highest first, and the indices (Q, k) in the collection.
    """
    return build_index(collection, index, device=device)(queries, k)


def build_index(collection: NDArray[Any], index: Index = "exact", *, device: str = "cpu") -> Search:
    """Return a function that searches a collection: (queries (Q, D), k) -> similarities (Q, k), indices (Q, k).

    Args:
        collection: vectors (N, D) of any floating-point dtype.
        index: `exact` compares each query with every vector, in blocks, so that memory is bounded. `faiss` (inverted
            lists, of which a sixteenth are searched) and `hnsw` (hnswlib, a graph of neighbours) are approximate: they
            take time to build and miss some of the nearest vectors. A result that was not found has the index -1 and
            the similarity -inf.
        device: torch device of an exact search.

    Raises:
        InputError: there is no such index, or later, the queries have another number of dimensions.
        MissingExtraError: the package of the index is not installed.
    """
    builders = {"exact": _exact, "faiss": _faiss, "hnsw": _hnsw}
    if index not in builders:
        raise InputError(f"index must be one of {', '.join(INDEXES)}, got {index!r}.")
    found = builders[index if len(collection) else "exact"](collection, device)

    def search(queries: NDArray[Any], k: int) -> Found:
        _check_dimensions(queries, collection)
        return found(queries, min(k, len(collection)))

    return search


def _check_dimensions(queries: NDArray[Any], collection: NDArray[Any]) -> None:
    if queries.shape[1] != collection.shape[1]:
        raise InputError(
            f"The queries have {queries.shape[1]} dimensions, but the collection has {collection.shape[1]}: compute "
            "both with the same model and options."
        )


def _unit(vectors: NDArray[Any], device: str = "cpu") -> Tensor:
    return torch.nn.functional.normalize(torch.as_tensor(vectors, device=device).float(), dim=1)


def _exact(collection: NDArray[Any], device: str) -> Search:
    def search(queries: NDArray[Any], k: int) -> Found:
        wanted = _unit(queries, device)
        scores = torch.empty(len(wanted), 0, device=device)
        indices = torch.empty(len(wanted), 0, dtype=torch.long, device=device)
        for start in range(0, len(collection), ROWS):
            rows = _unit(collection[start : start + ROWS], device)
            parts = [(part @ rows.T).topk(min(k, len(rows))) for part in wanted.split(max(1, BLOCK // len(rows)))]
            # the best of this block and of those before it
            scores = torch.cat([scores, torch.cat([part.values for part in parts])], 1)
            indices = torch.cat([indices, torch.cat([part.indices for part in parts]) + start], 1)
            scores, best = scores.topk(min(k, scores.shape[1]))
            indices = indices.gather(1, best)
        return scores.cpu().numpy(), indices.cpu().numpy()

    return search


def _faiss(collection: NDArray[Any], device: str) -> Search:
    try:
        import faiss  # type: ignore[import-not-found, import-untyped, unused-ignore]
    except ImportError as error:
        raise MissingExtraError("A search with FAISS needs its package: pip install faiss-cpu") from error
    # lists of at least 39 vectors, which the training of FAISS asks for
    lists = max(1, min(len(collection) // 39, round(4 * len(collection) ** 0.5)))
    index = faiss.IndexIVFFlat(
        faiss.IndexFlatIP(collection.shape[1]), collection.shape[1], lists, faiss.METRIC_INNER_PRODUCT
    )
    index.nprobe = max(min(8, lists), lists // 16)
    sample = np.random.default_rng(0).permutation(len(collection))[: 64 * lists]
    index.train(_unit(collection[np.sort(sample)]).numpy())
    for start in range(0, len(collection), ROWS):
        index.add(_unit(collection[start : start + ROWS]).numpy())

    def search(queries: NDArray[Any], k: int) -> Found:
        scores, indices = index.search(_unit(queries).numpy(), k)
        scores[indices < 0] = -np.inf
        return scores, indices

    return search


def _hnsw(collection: NDArray[Any], device: str) -> Search:
    try:
        import hnswlib  # type: ignore[import-not-found, import-untyped, unused-ignore]
    except ImportError as error:
        raise MissingExtraError("A search with HNSW needs its package: pip install hnswlib") from error
    index = hnswlib.Index("ip", collection.shape[1])
    index.init_index(max_elements=max(1, len(collection)), ef_construction=200, M=32, random_seed=0)
    for start in range(0, len(collection), ROWS):
        index.add_items(
            _unit(collection[start : start + ROWS]).numpy(), np.arange(start, min(start + ROWS, len(collection)))
        )

    def search(queries: NDArray[Any], k: int) -> Found:
        index.set_ef(max(100, 2 * k))
        indices, distances = index.knn_query(_unit(queries).numpy(), k)
        return 1 - distances, indices.astype(np.int64)

    return search


def near_duplicates(vectors: NDArray[Any], threshold: float = 0.98, *, device: str = "cpu") -> list[list[int]]:
    """Return groups of images that are connected by a cosine similarity of at least `threshold`.

    Args:
        vectors: vectors (N, D).
        threshold: smallest similarity of duplicates.
        device: torch device of the comparison.

    Returns:
        The indices of each group of two or more, in increasing order, with the largest group first.
    """
    from scipy.sparse import coo_array  # type: ignore[import-untyped]
    from scipy.sparse.csgraph import connected_components  # type: ignore[import-untyped]

    unit = _unit(vectors, device)
    first, second = [], []
    rows = max(1, BLOCK // max(1, len(unit)))
    for start in range(0, len(unit), rows):
        similar = unit[start : start + rows] @ unit[start:].T
        pairs = torch.nonzero(similar >= threshold)
        pairs = pairs[pairs[:, 0] < pairs[:, 1]].cpu() + start
        first.append(pairs[:, 0])
        second.append(pairs[:, 1])
    if not len(unit):
        return []
    a, b = torch.cat(first).numpy(), torch.cat(second).numpy()
    _, component = connected_components(
        coo_array((np.ones(len(a), bool), (a, b)), shape=(len(unit),) * 2), directed=False
    )
    order = np.argsort(component, kind="stable")
    groups = np.split(order, np.flatnonzero(np.diff(component[order])) + 1)
    return sorted((group.tolist() for group in groups if len(group) > 1), key=lambda group: (-len(group), group))


def nearest_parts(
    query: NDArray[Any], collection: Embeddings, k: int = 10, *, exclude: int | None = None, device: str = "cpu"
) -> list[tuple[float, int, int]]:
    """Return the images with the slots that are most similar to a vector, with an exact search.

    Args:
        query: vector (D,), such as the vector of a slot, or the mean of several.
        collection: vectors of slots. Slots without pixels in the map are left out.
        k: number of images.
        exclude: index of an image to leave out.
        device: torch device of the search.

    Returns:
        For each image, the similarity, its index and the number of its most similar slot, sorted by similarity.
    """
    slots = collection.require_slots()
    _check_dimensions(query[None], collection.vectors)
    blocks = range(0, len(collection.vectors), ROWS)
    wanted = _unit(query[None], device)[0]
    scores = np.concatenate([(_unit(collection.vectors[i : i + ROWS], device) @ wanted).cpu().numpy() for i in blocks])
    candidates = np.flatnonzero(slots.visible() & (slots.images != (-1 if exclude is None else exclude)))
    ordered = candidates[np.argsort(-scores[candidates], kind="stable")]
    _, first = np.unique(slots.images[ordered], return_index=True)  # the best slot of each image
    best = ordered[np.sort(first)[:k]]
    return [(float(scores[i]), int(slots.images[i]), int(slots.numbers[i])) for i in best]
