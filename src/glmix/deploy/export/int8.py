"""Static int8 quantisation of an ONNX graph with calibration images.

Convolutions and linear layers compute in int8, with one scale per output channel. Products of activations stay in
float32, because rounding would reduce the accuracy: seeds, assignment logits, clustering, dispatch and attention.
Softmaxes and norms stay in float32 too. So do the first convolution of the stem and the classifier: they take little
time, and the logits are not rounded to 256 levels.
"""

import contextlib
import logging
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import timm.data
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ...errors import InputError
from .check import Run, mean_error
from .graph import INPUT, Deployed, backbone_of
from .run import require
from .write import quiet

__all__ = ["BATCH", "Calibration", "Int8Report", "compare", "quantise"]

BATCH = 16  # batch size in calibration and comparison


@dataclass(frozen=True, eq=False)
class Calibration:
    """Images for calibrating a quantised model, and held-out images for its evaluation.

    They should resemble the images in use. A few hundred images are enough.

    Args:
        images: calibration images, uint8 (B, C, H, W), resized and cropped for the model.
        held_out: evaluation images in the same format.
    """

    images: Tensor
    held_out: Tensor

    @classmethod
    def from_scenes(cls, model: nn.Module, count: int = 512) -> "Calibration":
        """Generate scenes at the input size of a model.

        Args:
            model: a model for square RGB images.
            count: number of scenes.

        Raises:
            InputError: the model takes other images, or `count` is below 2.
        """
        from ...data.scenes import SceneConfig, SceneDataset

        channels, height, width = _data_config(model)["input_size"]
        if channels != 3 or height != width:
            raise InputError(
                f"Generated scenes are square RGB images, but this model takes images of {width} x {height} pixels "
                f"with {channels} channels."
            )
        scenes = SceneDataset(SceneConfig(size=height, objects=(1, 1)), "val", count)
        return cls._halves([scenes[index][0] for index in range(count)])

    @classmethod
    def from_files(
        cls,
        model: nn.Module,
        files: Sequence[Path],
        count: int = 512,
        failed: Callable[[Path, Exception], None] | None = None,
    ) -> "Calibration":
        """Load images, resized and cropped by the evaluation transform of a model.

        Args:
            model: the model.
            files: image files. Every n-th one is used, so that all subfolders contribute.
            count: maximum number of images.
            failed: called for each image that cannot be read; None raises the error.

        Raises:
            InputError: fewer than 2 images can be read.
        """
        from tqdm import tqdm

        from ...data.core.decoding import UNREADABLE, read_image

        config = _data_config(model)
        transform = timm.data.create_transform(**config, is_training=False, normalize=False)
        mode = "L" if config["input_size"][0] == 1 else "RGB"
        images = []
        for file in tqdm(files[:: max(1, -(-len(files) // count))], unit="image", disable=None):
            try:
                images.append(transform(read_image(file, mode, upright=False)))
            except UNREADABLE as error:
                if failed is None:
                    raise
                failed(file, error)
        return cls._halves(images)

    @classmethod
    def _halves(cls, images: list[Tensor]) -> "Calibration":
        if len(images) < 2:
            raise InputError(f"int8 quantisation needs at least 2 calibration images, found {len(images)}.")
        stacked = torch.stack(images)
        return cls(stacked[::2], stacked[1::2])


def _data_config(model: nn.Module) -> dict[str, Any]:
    config: dict[str, Any] = timm.data.resolve_model_data_config(backbone_of(model))
    return config


@dataclass(frozen=True)
class Int8Report:
    """The comparison of an int8 graph with the float32 graph on held-out images.

    Args:
        images: number of images.
        agreement: fraction of the images, or of their pixels, with the same top class as in float32; None for a model
            without classes.
        error: relative root mean square error, the maximum over all outputs.
        milliseconds: {"float32": ..., "int8": ...}: time per image, the median of interleaved runs with 8 images.
    """

    images: int
    agreement: float | None
    error: float
    milliseconds: dict[str, float]


def quantise(source: Path, target: Path, deployed: Deployed, images: Tensor) -> None:
    """Quantise an ONNX file.

    Args:
        source: the float32 file.
        target: the int8 file to write.
        deployed: the model, which converts the images to its inputs.
        images: calibration images, uint8 (B, C, H, W).
    """
    onnx = require("onnx")
    quantization = require("onnxruntime.quantization")
    prepare = require("onnxruntime.quantization.shape_inference").quant_pre_process

    class Reader(quantization.CalibrationDataReader):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            self.batches = iter(images.split(BATCH))

        def get_next(self) -> dict[str, NDArray[Any]] | None:
            batch = next(self.batches, None)
            return None if batch is None else {INPUT: deployed.to_input(batch).numpy()}

    with tempfile.TemporaryDirectory() as folder, quiet(), _without_warnings():
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
def _without_warnings() -> Iterator[None]:
    """Disable the log: onnxruntime recommends a preprocessing that was already done."""
    previous = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(previous)


def compare(float32: Run, int8: Run, deployed: Deployed, images: Tensor, rounds: int = 7) -> Int8Report:
    """Compare the outputs and the speed of a quantised graph with those of the float32 graph.

    Args:
        float32: the float32 graph as a function.
        int8: the quantised graph as a function.
        deployed: the model, which converts the images to its inputs.
        images: evaluation images, uint8 (B, C, H, W).
        rounds: number of timed runs of each graph.
    """
    batches = [deployed.to_input(batch).numpy() for batch in images.split(BATCH)]
    outputs = [(float32(batch), int8(batch)) for batch in batches]

    def concatenated(index: int, name: str) -> NDArray[Any]:
        return np.concatenate([pair[index][name] for pair in outputs])

    agreement = None
    if deployed.names == ("logits",):
        agreement = float((concatenated(0, "logits").argmax(1) == concatenated(1, "logits").argmax(1)).mean())
    error = max(mean_error(concatenated(1, name), concatenated(0, name)) for name in deployed.names)
    timed = deployed.to_input(images[:8]).numpy()
    seconds: dict[str, list[float]] = {"float32": [], "int8": []}
    for _ in range(rounds):
        for name, run in (("float32", float32), ("int8", int8)):
            start = time.perf_counter()
            run(timed)
            seconds[name].append(time.perf_counter() - start)
    milliseconds = {name: 1e3 * statistics.median(times) / len(timed) for name, times in seconds.items()}
    return Int8Report(len(images), agreement, error, milliseconds)
