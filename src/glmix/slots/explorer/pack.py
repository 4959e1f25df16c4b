"""Maps as bytes: 8 bit, each row on a range of its own that is told beside it, in one compressed buffer."""

import base64
import zlib
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["Buffer", "quantise"]

Bytes = NDArray[np.uint8]
Floats = NDArray[np.float32]


def quantise(rows: Floats) -> tuple[Bytes, list[float], list[float]]:
    """Rows (R, N) as bytes, and the values that 0 and 255 stand for in each row.

    Row r reads low[r] + byte * (high[r] - low[r]) / 255, which is off by at most (high[r] - low[r]) / 510 and what is
    lost by writing the ends of the range with seven digits.
    """
    low = [float(f"{value:.7g}") for value in rows.min(axis=1)]
    high = [float(f"{value:.7g}") for value in rows.max(axis=1)]
    start = np.array(low)[:, None]
    width = np.array(high)[:, None] - start
    levels = np.divide(rows - start, width, out=np.zeros(rows.shape), where=width > 0)
    return np.rint(255 * levels.clip(0, 1)).astype(np.uint8), low, high


class Buffer:
    """All arrays of a page, one behind the other, to be decoded at once."""

    def __init__(self) -> None:
        self.parts: list[bytes] = []
        self.size = 0

    def add(self, array: Bytes, lag: int = 0) -> dict[str, int]:
        """Where `array` stands. With a lag, each byte is kept as its difference to the one so far before it.

        Neighbours in a map are alike, so differences to the row above are small and compress better.
        """
        flat = array.ravel()
        if lag:
            flat = np.concatenate([flat[:lag], flat[lag:] - flat[:-lag]])
        place = {"at": self.size, "size": flat.size, "lag": lag}
        self.parts.append(flat.tobytes())
        self.size += flat.size
        return place

    def add_rows(self, rows: Floats, lag: int = 0) -> dict[str, Any]:
        """`rows` (R, N) quantised, with the range of each."""
        levels, low, high = quantise(rows)
        return {**self.add(levels, lag), "low": low, "high": high}

    def text(self) -> str:
        """All of it, compressed, in base64."""
        return base64.b64encode(zlib.compress(b"".join(self.parts), 6)).decode("ascii")
