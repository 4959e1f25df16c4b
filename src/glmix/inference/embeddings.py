"""Search and classification with stored embeddings."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..data.core.tables import pyarrow
from ..errors import InputError, MissingExtraError

__all__ = ["Embeddings", "LinearProbe", "knn_classify", "linear_probe", "load_embeddings", "near_duplicates", "nearest"]

BLOCK = 1 << 24  # similarities computed at a time


@dataclass(frozen=True)
class Embeddings:
    """Vectors of a collection of images.

    Args:
        keys: names of the images.
        vectors: their vectors (N, D), float32.
        errors: names of the images without a vector.
    """

    keys: list[str]
    vectors: NDArray[np.float32]
    errors: list[str]


def load_embeddings(folder: str | Path, column: str | None = None) -> Embeddings:
    """Read the vectors that `glmix embed` or `run_to_folder` wrote.

    Args:
        folder: folder with Parquet files.
        column: column of the vectors; None for the only one.

    Raises:
        InputError: the folder has no Parquet files, or no such column.
    """
    _, parquet = pyarrow()
    files = sorted(Path(folder).glob("part-*.parquet"))
    if not files:
        raise InputError(f"{folder} contains no part-*.parquet files: write them with `glmix embed`.")
    columns = [name for name in parquet.read_schema(files[0]).names if name.startswith("embedding")]
    if column is None and len(columns) == 1:
        column = columns[0]
    if column not in columns:
        given = "has no column of vectors" if column is None and not columns else f"column is {column}"
        raise InputError(f"{folder}: {given}, expected one of {', '.join(columns) or 'embedding, embedding_N'}.")
    keys: list[str] = []
    errors: list[str] = []
    blocks = []
    for file in files:
        table = parquet.read_table(file, columns=["key", column])
        vectors = table.column(column).combine_chunks()
        valid = vectors.is_valid().to_numpy(zero_copy_only=False)
        names = table.column("key").to_pylist()
        keys += [name for name, good in zip(names, valid, strict=True) if good]
        errors += [name for name, good in zip(names, valid, strict=True) if not good]
        # filter, because a null in a list of fixed size has values too
        values = vectors.filter(vectors.is_valid()).flatten().to_numpy(zero_copy_only=False)
        blocks.append(values.reshape(-1, vectors.type.list_size).astype(np.float32))
    return Embeddings(keys, np.concatenate(blocks), errors)


def _unit(vectors: NDArray[Any], device: str) -> Tensor:
    return torch.nn.functional.normalize(torch.as_tensor(vectors, dtype=torch.float32, device=device), dim=1)


def nearest(
    queries: NDArray[Any], collection: NDArray[Any], k: int = 10, *, device: str = "cpu"
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Return the most similar vectors of a collection by cosine similarity, with an exact search.

    Args:
        queries: vectors (Q, D).
        collection: vectors (N, D).
        k: number of results per query; at most N are returned.
        device: torch device of the search.

    Returns:
        The similarities (Q, k), highest first, and the indices (Q, k) in the collection.
    """
    if queries.shape[1] != collection.shape[1]:
        raise InputError(
            f"The queries have {queries.shape[1]} dimensions, but the collection has {collection.shape[1]}: compute "
            "both with the same model and options."
        )
    wanted, found = _unit(queries, device), _unit(collection, device)
    k = min(k, len(found))
    rows = max(1, BLOCK // max(1, len(found)))
    scores, indices = zip(*((part @ found.T).topk(k) for part in wanted.split(rows)), strict=True)
    return torch.cat(scores).cpu().numpy(), torch.cat(indices).cpu().numpy()


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


def knn_classify(
    train: NDArray[Any],
    labels: Sequence[int] | NDArray[np.int64],
    queries: NDArray[Any],
    k: int = 20,
    temperature: float = 0.07,
    *,
    device: str = "cpu",
) -> NDArray[np.int64]:
    """Classify vectors by a vote of their nearest neighbours, weighted by exp(similarity / temperature) as in DINO.

    Args:
        train: vectors (N, D).
        labels: their class indices (N,).
        queries: vectors (Q, D).
        k: number of neighbours.
        temperature: temperature of the weights.
        device: torch device of the search.

    Returns:
        The class indices (Q,).
    """
    similarities, neighbours = nearest(queries, train, k, device=device)
    classes = np.asarray(labels)
    votes = np.zeros((len(queries), int(classes.max()) + 1))
    rows = np.repeat(np.arange(len(queries)), similarities.shape[1])
    np.add.at(votes, (rows, classes[neighbours].ravel()), np.exp(similarities / temperature).ravel())
    winners: NDArray[np.int64] = votes.argmax(1)
    return winners


@dataclass(frozen=True)
class LinearProbe:
    """Result of `linear_probe`.

    Args:
        accuracy: accuracy on the test vectors, of the regularisation that was best on held-out training vectors.
        regularization: that inverse regularisation strength C.
        sweep: accuracy on held-out training vectors by C; empty if nothing was held out.
    """

    accuracy: float
    regularization: float
    sweep: dict[float, float]


def linear_probe(
    train: NDArray[Any],
    labels: Sequence[int] | NDArray[np.int64],
    test: NDArray[Any],
    test_labels: Sequence[int] | NDArray[np.int64],
    *,
    regularizations: Sequence[float] = (0.01, 0.1, 1.0, 10.0, 100.0),
    seed: int = 0,
) -> LinearProbe:
    """Train a logistic regression on standardised vectors, and measure its accuracy.

    The regularisation is chosen with a fifth of the training vectors, stratified by class; then all are used. If a
    class has fewer than five training vectors, nothing is held out, and C is 1.

    Args:
        train: vectors (N, D).
        labels: their class indices (N,).
        test: vectors (M, D).
        test_labels: their class indices (M,).
        regularizations: inverse regularisation strengths C to try.
        seed: seed of the held-out fifth.
    """
    try:
        from sklearn.linear_model import LogisticRegression  # type: ignore[import-untyped]
        from sklearn.model_selection import train_test_split  # type: ignore[import-untyped]
        from sklearn.pipeline import make_pipeline  # type: ignore[import-untyped]
        from sklearn.preprocessing import StandardScaler  # type: ignore[import-untyped]
    except ImportError as error:
        raise MissingExtraError("A linear probe needs scikit-learn: pip install 'glmix[inference]'") from error

    def fit(strength: float, x: NDArray[Any], y: NDArray[Any]) -> Any:
        return make_pipeline(StandardScaler(), LogisticRegression(C=strength, max_iter=2000)).fit(x, y)

    classes = np.asarray(labels)
    sweep: dict[float, float] = {}
    if np.unique(classes, return_counts=True)[1].min() >= 5:
        split = train_test_split(train, classes, test_size=0.2, stratify=classes, random_state=seed)
        sweep = {c: float(fit(c, split[0], split[2]).score(split[1], split[3])) for c in regularizations}
    best = max(sweep, key=lambda strength: sweep[strength], default=1.0)
    accuracy = float(fit(best, train, classes).score(test, np.asarray(test_labels)))
    return LinearProbe(accuracy, best, sweep)
