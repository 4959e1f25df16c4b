"""Accuracy of k-NN and logistic regression on stored embeddings."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import MissingExtraError
from .search import nearest

__all__ = ["LinearProbe", "few_shot_probes", "knn_classify", "linear_probe"]


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
        accuracy: accuracy on the test vectors with the chosen regularisation.
        regularization: inverse regularisation strength C with the highest accuracy on the validation vectors.
        sweep: accuracy on the validation vectors by C; empty if there are none.
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
    validation: tuple[NDArray[Any], NDArray[np.int64]] | None = None,
    regularizations: Sequence[float] = (0.01, 0.1, 1.0, 10.0, 100.0),
    seed: int = 0,
) -> LinearProbe:
    """Train a logistic regression on standardised vectors, and measure its accuracy.

    The regularisation is chosen on the validation vectors. Without them, it is chosen on a fifth of the training
    vectors, stratified by class, and then all are used; if a class has fewer than five training vectors, C is 1.

    Args:
        train: vectors (N, D).
        labels: their class indices (N,).
        test: vectors (M, D).
        test_labels: their class indices (M,).
        validation: vectors (V, D) and class indices (V,) to choose the regularisation with; None: a part of `train`.
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
    if validation is not None:
        sweep = {c: float(fit(c, train, classes).score(*validation)) for c in regularizations}
    elif np.unique(classes, return_counts=True)[1].min() >= 5:
        split = train_test_split(train, classes, test_size=0.2, stratify=classes, random_state=seed)
        sweep = {c: float(fit(c, split[0], split[2]).score(split[1], split[3])) for c in regularizations}
    best = max(sweep, key=lambda strength: sweep[strength], default=1.0)
    accuracy = float(fit(best, train, classes).score(test, np.asarray(test_labels)))
    return LinearProbe(accuracy, best, sweep)


def few_shot_probes(
    train: NDArray[Any],
    labels: Sequence[int] | NDArray[np.int64],
    test: NDArray[Any],
    test_labels: Sequence[int] | NDArray[np.int64],
    shots: int,
    *,
    repeats: int = 5,
    seed: int = 0,
) -> list[float]:
    """Return the accuracies of linear probes on random training vectors, `shots` of each class.

    Args:
        train: vectors (N, D).
        labels: their class indices (N,).
        test: vectors (M, D).
        test_labels: their class indices (M,).
        shots: number of training vectors per class; a class with fewer vectors contributes all of them.
        repeats: number of random subsets of the training vectors.
        seed: random seed of the first subset; subset i has the seed `seed + i`.
    """
    classes = np.asarray(labels)
    accuracies = []
    for number in range(seed, seed + repeats):
        generator = np.random.default_rng(number)
        members = [generator.permutation(np.flatnonzero(classes == c))[:shots] for c in np.unique(classes)]
        chosen = np.concatenate(members)
        accuracies.append(linear_probe(train[chosen], classes[chosen], test, test_labels, seed=number).accuracy)
    return accuracies
