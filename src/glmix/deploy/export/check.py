"""Is an exported file the model? It is run beside it, at several sizes and batches."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ...errors import InputError
from .graph import Deployed

__all__ = [
    "BATCHES",
    "Check",
    "Run",
    "TOLERANCE",
    "check",
    "check_sizes",
    "largest_error",
    "own_size",
    "relative_error",
]

Array = NDArray[Any]
Run = Callable[[Array], dict[str, Array]]

BATCHES = (1, 3)
TOLERANCE = 1e-4  # of float32, as a share of the largest value of an output


@dataclass(frozen=True)
class Check:
    """How far the file's outputs were from the model's on one batch: the largest difference by the largest value."""

    batch: int
    height: int
    width: int
    error: float


def own_size(deployed: Deployed, smallest: int) -> tuple[int, int]:
    """Height and width that the model was made for."""
    _, height, width = deployed.config["input_size"]
    return max(height, smallest), max(width, smallest)


def check_sizes(deployed: Deployed, smallest: int) -> list[tuple[int, int]]:
    """Five sizes: the smallest, a wide and a high odd one, the model's own and one beside it that nothing divides."""
    height, width = own_size(deployed, smallest)
    return [(smallest, smallest), (97, 130), (200, 72), (height, width), (height + 43, width + 15)]


def relative_error(found: Array, expected: Array) -> float:
    """The largest difference as a share of the largest value; infinite where the two are no arrays alike."""
    if found.shape != expected.shape or not np.isfinite(found).all():
        return float("inf")
    return float(np.abs(found - expected).max() / max(float(np.abs(expected).max()), 1e-12))


def mean_error(found: Array, expected: Array) -> float:
    """The root of the mean squared difference as a share of that of the values: what rounding to int8 is judged by."""
    if found.shape != expected.shape or not np.isfinite(found).all():
        return float("inf")
    return float(np.linalg.norm(found - expected) / max(float(np.linalg.norm(expected)), 1e-12))


def largest_error(checks: Sequence[Check]) -> float:
    return max(check.error for check in checks)


def _batches(deployed: Deployed, sizes: Sequence[tuple[int, int]], pictures: Tensor | None) -> Iterator[Tensor]:
    """Images at all sizes and batches: random ones, or some pictures (B, C, H, W) of bytes, resized."""
    for height, width in sizes:
        for batch in BATCHES:
            if pictures is None:
                yield deployed.example(batch, height, width, seed=batch)
                continue
            chosen = pictures[torch.arange(batch) % len(pictures)].float()
            resized = nn.functional.interpolate(chosen, size=(height, width), mode="bilinear", antialias=True)
            yield deployed.feed(resized.round().clamp(0, 255).to(torch.uint8))


def check(
    run: Run,
    deployed: Deployed,
    sizes: Sequence[tuple[int, int]],
    tolerance: float = TOLERANCE,
    *,
    pictures: Tensor | None = None,
) -> list[Check]:
    """Run a graph and the model on the same images at all sizes and batches; one that differs is refused.

    With pictures, which a graph of int8 is checked on, the mean error is held against the tolerance in place of the
    largest.
    """
    measure = relative_error if pictures is None else mean_error
    height_dim, width_dim = (dim for dim, name in deployed.free_dims.items() if name != "batch")
    checks = []
    for images in _batches(deployed, sizes, pictures):
        batch, height, width = images.shape[0], images.shape[height_dim], images.shape[width_dim]
        where = f"{batch} image{'s' if batch > 1 else ''} of {width} x {height} pixels"
        with torch.inference_mode():
            expected = {name: out.numpy() for name, out in zip(deployed.names, deployed(images), strict=True)}
        if not all(np.isfinite(value).all() for value in expected.values()):
            raise InputError(f"The model itself gives values that are not finite, on {where}: its weights are broken.")
        try:
            found = run(images.numpy())
        except Exception as error:  # each library has errors of its own
            raise InputError(
                f"The exported graph does not run on {where}, so it was not kept: {str(error).strip().splitlines()[0]}"
            ) from error
        errors = {name: measure(found[name], value) for name, value in expected.items()}
        worst = max(errors, key=lambda name: errors[name])
        if not errors[worst] <= tolerance:
            shape = "x".join(map(str, found[worst].shape))
            raise InputError(
                f"The exported graph is not the model, so it was not kept: on {where} its output {worst!r} ({shape}) "
                f"is off by {errors[worst]:.1e}, and the tolerance is {tolerance:.0e}."
            )
        checks.append(Check(batch, height, width, errors[worst]))
    return checks
