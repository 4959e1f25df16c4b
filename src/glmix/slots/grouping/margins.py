"""Paired differences between a method and its controls on the same images, with 95 % confidence intervals."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["Margin", "interval", "margins", "mean_of"]

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Margin:
    """Difference between a method and a control.

    Args:
        control: name of the control.
        mean: mean over images of the paired difference; positive means that the method is better.
        half: half the width of its 95 % confidence interval, 1.96 standard errors.
    """

    control: str
    mean: float
    half: float

    @property
    def verdict(self) -> str:
        """Comparison with the control: "above", "below" or "level" if the interval contains 0."""
        return "above" if self.mean > self.half else "below" if self.mean < -self.half else "level"


def mean_of(values: Floats) -> float:
    """Return the mean over the images for which a score is defined; NaN if there is none."""
    known = values[~np.isnan(values)]
    return float(known.mean()) if len(known) else float("nan")


def interval(values: Floats) -> float:
    """Return half the width of the 95 % confidence interval of the mean, 1.96 standard errors; 0 for a single image."""
    known = values[~np.isnan(values)]
    return 1.96 * float(known.std(ddof=1)) / len(known) ** 0.5 if len(known) > 1 else 0.0


def margins(values: Floats, controls: Mapping[str, Floats], better: int = 1) -> list[Margin]:
    """Compare a method with every control. The result is sorted by difference, the smallest first.

    Args:
        values: score per image, NaN where it is not defined.
        controls: scores of each control on the same images.
        better: 1 if higher is better, -1 if lower is better.
    """
    found = []
    for control, others in controls.items():
        differences = better * (values - others)
        if (~np.isnan(differences)).sum() > 1:
            found.append(Margin(control, mean_of(differences), interval(differences)))
    return sorted(found, key=lambda margin: margin.mean)
