"""Compression of maps: 8-bit quantisation with a range per row, and one compressed buffer for all maps."""

import base64
import zlib
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["Buffer", "quantise"]

Bytes = NDArray[np.uint8]
Floats = NDArray[np.float32]


def quantise(rows: Floats) -> tuple[Bytes, list[float], list[float]]:
    """Quantise rows (R, N) to 8 bits, and return the values that 0 and 255 stand for in each row.

    Row r decodes to low[r] + byte * (high[r] - low[r]) / 255. The error is at most (high[r] - low[r]) / 510, plus the
    rounding of the range to seven digits.
    """
    low = [float(f"{value:.7g}") for value in rows.min(axis=1)]
    high = [float(f"{value:.7g}") for value in rows.max(axis=1)]
    start = np.array(low)[:, None]
    width = np.array(high)[:, None] - start
    levels = np.divide(rows - start, width, out=np.zeros(rows.shape), where=width > 0)
    return np.rint(255 * levels.clip(0, 1)).astype(np.uint8), low, high


class Buffer:
    """All arrays of a page, concatenated and compressed together."""

    def __init__(self) -> None:
        self.parts: list[bytes] = []
        self.size = 0

    def add(self, array: Bytes, lag: int = 0) -> dict[str, int]:
        """Append an array and return its location.

        Args:
            array: bytes.
            lag: with a lag, each byte is stored as the difference to the byte `lag` positions before it. With the
                width of a map as lag, these are small vertical differences, which compress better.
        """
        flat = array.ravel()
        if lag:
            flat = np.concatenate([flat[:lag], flat[lag:] - flat[:-lag]])
        location = {"at": self.size, "size": flat.size, "lag": lag}
        self.parts.append(flat.tobytes())
        self.size += flat.size
        return location

    def add_rows(self, rows: Floats, lag: int = 0) -> dict[str, Any]:
        """Quantise and append rows (R, N), and return their location and ranges."""
        levels, low, high = quantise(rows)
        return {**self.add(levels, lag), "low": low, "high": high}

    def text(self) -> str:
        """Return the compressed buffer in base64."""
        return base64.b64encode(zlib.compress(b"".join(self.parts), 6)).decode("ascii")
