"""Shapes, textures and background noise of scenes, as functions of coordinates."""

import functools
import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

__all__ = ["SHAPES", "TEXTURES", "Floats", "Mask", "power_law_noise", "rotate_axes", "unit_grid"]

Floats = NDArray[np.float32]
Mask = NDArray[np.bool_]


@functools.lru_cache(maxsize=8)
def unit_grid(size: int) -> Floats:
    """Return the centres of `size` pixels in a row, as fractions of the side. The array is cached and read-only."""
    grid = (np.arange(size, dtype=np.float32) + np.float32(0.5)) / np.float32(size)
    grid.flags.writeable = False
    return grid


def rotate_axes(x: Floats, y: Floats, angle: float) -> tuple[Floats, Floats]:
    """Return coordinates in axes rotated by `angle` radians. A row x and a column y give two full grids."""
    cos, sin = math.cos(angle), math.sin(angle)
    return x * cos + y * sin, y * cos - x * sin


# Shapes: (u, v) in units of the object radius -> inside or not. All touch the unit circle and stay inside it.


def disc(u: Floats, v: Floats) -> Mask:
    return u * u + v * v <= 1


def ring(u: Floats, v: Floats) -> Mask:
    square = u * u + v * v
    return (square <= 1) & (square > 0.3)


def cross(u: Floats, v: Floats) -> Mask:
    across, along = np.abs(u), np.abs(v)
    return (np.minimum(across, along) <= 0.3) & (np.maximum(across, along) <= 0.954)


def square(u: Floats, v: Floats) -> Mask:
    return np.maximum(np.abs(u), np.abs(v)) <= math.sqrt(0.5)


def triangle(u: Floats, v: Floats) -> Mask:
    return (v >= -0.5) & (math.sqrt(3) * np.abs(u) + v <= 1)


def crescent(u: Floats, v: Floats) -> Mask:
    return (u * u + v * v <= 1) & ((u - 0.6) ** 2 + v * v > 0.5)


# Textures: (u, v) in periods -> which of two colours. Both are equally frequent, so colour counts are uninformative.


def stripes(u: Floats, v: Floats) -> Mask:
    return u % 1 < 0.5


def checks(u: Floats, v: Floats) -> Mask:
    return (u % 1 < 0.5) ^ (v % 1 < 0.5)


def dots(u: Floats, v: Floats) -> Mask:
    return (u % 1 - 0.5) ** 2 + (v % 1 - 0.5) ** 2 < 0.5 / math.pi


def zigzag(u: Floats, v: Floats) -> Mask:
    return (u + np.abs(v % 2 - 1)) % 1 < 0.5


Pattern = Callable[[Floats, Floats], Mask]

SHAPES: dict[str, Pattern] = {f.__name__: f for f in (disc, cross, ring, square, triangle, crescent)}
TEXTURES: dict[str, Pattern] = {f.__name__: f for f in (stripes, checks, dots, zigzag)}


@functools.lru_cache(maxsize=8)
def _log_frequency(size: int) -> Floats:
    """Return the logarithm of the spatial frequency of all coefficients of a real FFT (size, size // 2 + 1)."""
    frequency = np.hypot(np.fft.fftfreq(size)[:, None], np.fft.rfftfreq(size)[None, :]) * size
    frequency[0, 0] = np.inf  # removes the mean
    return np.log(frequency).astype(np.float32)


def power_law_noise(rng: np.random.Generator, size: int, exponent: float) -> Floats:
    """Return Gaussian noise (size, size) with amplitude 1 / frequency ** exponent, mean 0 and standard deviation 1.

    The spectrum of white noise is drawn directly. Like every inverse FFT, the result is periodic.
    """
    white = rng.standard_normal((size, size // 2 + 1, 2), dtype=np.float32).view(np.complex64)[..., 0]
    field = np.fft.irfft2(white * np.exp(_log_frequency(size) * -exponent), s=(size, size)).astype(np.float32)
    return field / field.std()
