"""Comparison of an exported file with the model at several image sizes and batch sizes."""

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
    "input_size_of",
    "relative_error",
]

Array = NDArray[Any]
Run = Callable[..., dict[str, Array]]

BATCHES = (1, 3)
TOLERANCE = 1e-4  # for float32, relative to the largest value of an output


@dataclass(frozen=True)
class Check:
    """The relative error of a file's outputs on one batch: the largest difference divided by the largest value."""

    batch: int
    height: int
    width: int
    error: float


def input_size_of(deployed: Deployed, smallest: int) -> tuple[int, int]:
    """Return the input height and width of the model, or `smallest` if that is larger."""
    _, height, width = deployed.config["input_size"]
    return max(height, smallest), max(width, smallest)


def check_sizes(deployed: Deployed, smallest: int) -> list[tuple[int, int]]:
    """Return five (height, width): the smallest, a wide one, a tall one, the model's input size and an odd one."""
    height, width = input_size_of(deployed, smallest)
    return [(smallest, smallest), (97, 130), (200, 72), (height, width), (height + 43, width + 15)]


def relative_error(found: Array, expected: Array) -> float:
    """Return the largest difference divided by the largest value; infinity for wrong shapes or non-finite values."""
    if found.shape != expected.shape or not np.isfinite(found).all():
        return float("inf")
    return float(np.abs(found - expected).max() / max(float(np.abs(expected).max()), 1e-12))


def mean_error(found: Array, expected: Array) -> float:
    """Return the relative root mean square error, the criterion for int8; infinity as for `relative_error`."""
    if found.shape != expected.shape or not np.isfinite(found).all():
        return float("inf")
    return float(np.linalg.norm(found - expected) / max(float(np.linalg.norm(expected)), 1e-12))


def largest_error(checks: Sequence[Check]) -> float:
    """Return the largest error of all checks."""
    return max(check.error for check in checks)


def _batches(deployed: Deployed, sizes: Sequence[tuple[int, int]], pictures: Tensor | None) -> Iterator[Tensor]:
    """Yield inputs at all image and batch sizes: random images, or resized `pictures` (B, C, H, W) of type uint8."""
    for height, width in sizes:
        for batch in BATCHES:
            if pictures is None:
                yield deployed.example(batch, height, width, seed=batch)
                continue
            chosen = pictures[torch.arange(batch) % len(pictures)].float()
            resized = nn.functional.interpolate(chosen, size=(height, width), mode="bilinear", antialias=True)
            yield deployed.to_input(resized.round().clamp(0, 255).to(torch.uint8))


def check(
    run: Run,
    deployed: Deployed,
    sizes: Sequence[tuple[int, int]],
    tolerance: float = TOLERANCE,
    *,
    pictures: Tensor | None = None,
) -> list[Check]:
    """Compare an exported graph with the model on the same images at all image sizes and batch sizes.

    Args:
        run: the exported graph as a function.
        deployed: the model.
        sizes: image sizes (height, width).
        tolerance: the maximum error.
        pictures: images (B, C, H, W) of type uint8 for int8 graphs; they are resized. With pictures, the tolerance
            applies to `mean_error` instead of `relative_error`. None for random images.

    Returns:
        The results, one per batch.

    Raises:
        InputError: the graph does not run, or its outputs differ from those of the model.
    """
    measure = relative_error if pictures is None else mean_error
    height_dim, width_dim = (dim for dim, name in deployed.dynamic_dims.items() if name != "batch")
    checks = []
    for images in _batches(deployed, sizes, pictures):
        batch, height, width = images.shape[0], images.shape[height_dim], images.shape[width_dim]
        where = f"{batch} image{'s' if batch > 1 else ''} of {width} x {height} pixels"
        with torch.inference_mode():
            expected = {name: out.numpy() for name, out in zip(deployed.names, deployed(images), strict=True)}
        if not all(np.isfinite(value).all() for value in expected.values()):
            raise InputError(f"The model returns values that are not finite for {where}: its weights are invalid.")
        try:
            found = run(images.numpy())
        except Exception as error:  # each runtime has its own exceptions
            raise InputError(
                f"No file was written, because the exported graph fails for {where}: "
                f"{str(error).strip().splitlines()[0]}"
            ) from error
        errors = {name: measure(found[name], value) for name, value in expected.items()}
        worst = max(errors, key=lambda name: errors[name])
        if not errors[worst] <= tolerance:
            shape = "x".join(map(str, found[worst].shape))
            raise InputError(
                f"No file was written, because the exported graph differs from the model: for {where} the output "
                f"{worst!r} ({shape}) has an error of {errors[worst]:.1e}, and the tolerance is {tolerance:.0e}."
            )
        checks.append(Check(batch, height, width, errors[worst]))
    return checks
