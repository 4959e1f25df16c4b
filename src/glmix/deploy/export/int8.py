"""Static quantisation to int8 of an ONNX graph, by the values that calibration images give it.

Convolutions and linear layers compute in int8, with one scale for each output channel. What multiplies activations
with activations stays in float32, for there rounding hurts: seeds, assignment logits, clustering, dispatch and
attention; so do softmaxes and norms. The stem's first convolution and the classifier stay there too: they cost next to
nothing, and logits are not rounded to 256 levels.
"""

import contextlib
import logging
import statistics
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from .check import Run, mean_error
from .graph import INPUT, Deployed
from .run import need
from .write import quiet

__all__ = ["BATCH", "Calibration", "Int8Report", "compare", "quantise"]

BATCH = 16  # images at once, in calibration and comparison


@dataclass(frozen=True, eq=False)
class Calibration:
    """Images that a quantised model is made with, and others that it is judged by: bytes, (B, C, H, W) each.

    They must look like those that the model will see, resized and cropped for it; a few hundred are enough.
    """

    images: Tensor
    held_out: Tensor


@dataclass(frozen=True)
class Int8Report:
    """What int8 changed, on images that it was not calibrated with.

    Args:
        images: how many they were.
        agreement: on how many of them the best class is that of float32, as a share; None without classes.
        error: root mean square of the differences by that of the values, of the output where it is largest.
        milliseconds: {"float32": of one image, "int8": the same}: medians of interleaved runs of 8 images.
    """

    images: int
    agreement: float | None
    error: float
    milliseconds: dict[str, float]


def quantise(source: Path, target: Path, deployed: Deployed, images: Tensor) -> None:
    """Write an ONNX file of int8 beside one of float32."""
    onnx = need("onnx")
    quantization = need("onnxruntime.quantization")
    prepare = need("onnxruntime.quantization.shape_inference").quant_pre_process

    class Reader(quantization.CalibrationDataReader):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            self.batches = iter(images.split(BATCH))

        def get_next(self) -> dict[str, NDArray[Any]] | None:
            batch = next(self.batches, None)
            return None if batch is None else {INPUT: deployed.feed(batch).numpy()}

    with tempfile.TemporaryDirectory() as folder, quiet(), _without_advice():
        prepared = Path(folder) / "prepared.onnx"
        prepare(str(source), str(prepared), skip_symbolic_shape=True)
        graph = onnx.load(str(prepared)).graph
        weights = {tensor.name for tensor in graph.initializer}
        first = next(node.name for node in graph.node if node.op_type == "Conv")
        products = [node.name for node in graph.node if node.op_type == "MatMul" and not weights & set(node.input)]
        quantization.quantize_static(
            str(prepared),
            str(target),
            Reader(),
            quant_format=quantization.QuantFormat.QDQ,
            op_types_to_quantize=["Conv", "MatMul"],  # the classifier is a Gemm
            nodes_to_exclude=[first, *products],
            per_channel=True,
            activation_type=quantization.QuantType.QUInt8,
            weight_type=quantization.QuantType.QInt8,
        )


@contextlib.contextmanager
def _without_advice() -> Iterator[None]:
    """onnxruntime logs advice that has been followed."""
    previous = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(previous)


def compare(plain: Run, small: Run, deployed: Deployed, images: Tensor, rounds: int = 7) -> Int8Report:
    """What the quantised graph says and costs beside the one of float32, on images (B, C, H, W) of bytes."""
    batches = [deployed.feed(batch).numpy() for batch in images.split(BATCH)]
    said = [(plain(batch), small(batch)) for batch in batches]

    def all_of(which: int, name: str) -> NDArray[Any]:
        return np.concatenate([pair[which][name] for pair in said])

    agreement = None
    if deployed.names == ("logits",):
        agreement = float((all_of(0, "logits").argmax(1) == all_of(1, "logits").argmax(1)).mean())
    error = max(mean_error(all_of(1, name), all_of(0, name)) for name in deployed.names)
    timed = deployed.feed(images[:8]).numpy()
    seconds: dict[str, list[float]] = {"float32": [], "int8": []}
    for _ in range(rounds):
        for name, run in (("float32", plain), ("int8", small)):
            start = time.perf_counter()
            run(timed)
            seconds[name].append(time.perf_counter() - start)
    milliseconds = {name: 1e3 * statistics.median(times) / len(timed) for name, times in seconds.items()}
    return Int8Report(len(images), agreement, error, milliseconds)
