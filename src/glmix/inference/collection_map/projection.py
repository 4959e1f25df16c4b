"""Projection of vectors to two dimensions: PCA, t-SNE or UMAP."""

from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ...errors import InputError, MissingExtraError, needs_extra

__all__ = ["METHODS", "Method", "project"]

Method = Literal["pca", "tsne", "umap"]
METHODS: tuple[Method, ...] = ("pca", "tsne", "umap")
MIN_VECTORS = 5  # minimum number of vectors for t-SNE and UMAP


def project(vectors: NDArray[Any], method: Method = "pca", seed: int = 0) -> tuple[NDArray[np.float64], str]:
    """Project vectors to two dimensions. They are L2-normalised first, as in a search by cosine similarity.

    Args:
        vectors: vectors (N, D).
        method: `pca` is linear and fast: distant points are different images, but near ones need not be similar.
            `tsne` and `umap` keep the neighbours of a point near it; distances between groups mean little.
        seed: seed of t-SNE and UMAP.

    Returns:
        The points (N, 2), and a description of the method.

    Raises:
        InputError: there is no such method, or there are too few vectors.
        MissingExtraError: the library of the method is not installed.
    """
    if method not in METHODS:
        raise InputError(f"method must be one of {', '.join(METHODS)}, got {method!r}.")
    if len(vectors) < (2 if method == "pca" else MIN_VECTORS):
        raise InputError(f"{method} needs at least {2 if method == 'pca' else MIN_VECTORS} images, got {len(vectors)}.")
    unit = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
    if method == "umap":
        return _umap(unit, seed), "UMAP"
    with needs_extra("inference", "PCA and t-SNE"):
        from sklearn.decomposition import PCA  # type: ignore[import-untyped]
        from sklearn.manifold import TSNE  # type: ignore[import-untyped]
    smaller = min(unit.shape)
    if method == "tsne":
        few = PCA(min(50, smaller), random_state=seed).fit_transform(unit)
        tsne = TSNE(
            perplexity=min(30.0, (len(unit) - 1) / 3), init="random" if smaller < 2 else "pca", random_state=seed
        )
        return np.asarray(tsne.fit_transform(few), np.float64), "t-SNE"
    pca = PCA(min(2, smaller), random_state=seed)
    with np.errstate(invalid="ignore"):  # the variance of equal vectors is 0
        points = np.asarray(pca.fit_transform(unit), np.float64)
    points = np.pad(points, ((0, 0), (0, 2 - points.shape[1])))
    return points, f"PCA, {np.nan_to_num(pca.explained_variance_ratio_).sum():.0%} of the variance"


def _umap(unit: NDArray[Any], seed: int) -> NDArray[np.float64]:
    try:
        import umap  # type: ignore[import-not-found, import-untyped, unused-ignore]
    except ImportError as error:
        raise MissingExtraError("A map with UMAP needs its package: pip install umap-learn") from error
    # several jobs would make the result differ between runs
    reducer = umap.UMAP(n_neighbors=min(15, len(unit) - 1), metric="cosine", random_state=seed, n_jobs=1)
    return np.asarray(reducer.fit_transform(unit), np.float64)
