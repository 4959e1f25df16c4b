"""By how much one thing is better than others on the same images, and whether that is more than luck."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["Margin", "interval", "margins", "mean_of"]

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Margin:
    """By how much something is better than a control.

    Args:
        mean: over images, of the difference in the same image, turned so that more is better.
        half: half the width of its 95 % interval, 1.96 standard errors.
    """

    control: str
    mean: float
    half: float

    @property
    def verdict(self) -> str:
        return "above" if self.mean > self.half else "below" if self.mean < -self.half else "level"


def mean_of(values: Floats) -> float:
    """Over the images for which a score is defined; NaN if there is none."""
    known = values[~np.isnan(values)]
    return float(known.mean()) if len(known) else float("nan")


def interval(values: Floats) -> float:
    """Half the width of the 95 % interval of the mean over images, 1.96 standard errors; 0 for a single image."""
    known = values[~np.isnan(values)]
    return 1.96 * float(known.std(ddof=1)) / len(known) ** 0.5 if len(known) > 1 else 0.0


def margins(values: Floats, controls: Mapping[str, Floats], better: int = 1) -> list[Margin]:
    """To every control, the one that comes nearest or is better first.

    Args:
        values: one an image, NaN where a score is not defined.
        controls: the same of each control, for the same images.
        better: 1 if more is better, -1 if less is.
    """
    found = []
    for control, others in controls.items():
        differences = better * (values - others)
        if (~np.isnan(differences)).sum() > 1:
            found.append(Margin(control, mean_of(differences), interval(differences)))
    return sorted(found, key=lambda margin: margin.mean)
