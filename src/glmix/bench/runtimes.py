"""Forward passes in onnxruntime and OpenVINO, for GLNets and other models."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ..deploy import Calibration, export_model
from ..deploy.export.graph import INPUT
from ..deploy.export.run import require
from ..deploy.export.write import quiet
from ..models import GLNet
from .forms import Form
from .prepared import Pass, Prepared

__all__ = ["prepare_exported"]

CALIBRATION = 32  # number of calibration images, which does not affect the speed

Array = NDArray[Any]


def prepare_exported(
    network: nn.Module, form: Form, input_size: tuple[int, int, int], folder: Path, threads: int | None = None
) -> Prepared:
    """Export a network to a folder and prepare its forward pass.

    Dynamic dimensions are fixed when the file is loaded, for a fair comparison with models that are exported for one
    input shape.

    Args:
        network: a GLNet or another model.
        form: the execution mode.
        input_size: channels, height and width.
        folder: folder for the exported files.
        threads: number of CPU threads; None for the default of the library.
    """
    for library in ("onnx", "onnxscript", "onnxruntime", form.runtime):
        require(library)
    suffix = ".xml" if form.runtime == "openvino" else ".onnx"
    exported = folder / f"model{suffix}"
    if isinstance(network, GLNet):
        export_model(network, exported, calibration=_calibration(input_size) if "int8" in form.words else None)

    def passes(batch: int) -> Pass:
        path = exported
        if not path.exists():
            path = folder / f"batch{batch}.onnx"
            _export(network, (batch, *input_size), path)
        x = torch.randn(batch, *input_size, generator=torch.Generator().manual_seed(0)).numpy()
        return _onnxruntime(path, x, threads) if form.runtime == "onnxruntime" else _openvino(path, x, form, threads)

    return Prepared(passes, keeps_memory=True)


def _export(network: nn.Module, shape: tuple[int, ...], path: Path) -> None:
    """Export a network other than a GLNet to ONNX for one input shape."""
    if path.exists():
        return
    with quiet():
        program = torch.onnx.export(network, (torch.zeros(shape),), dynamo=True, input_names=[INPUT], verbose=False)
        assert program is not None
        program.save(str(path), external_data=False)


def _calibration(input_size: tuple[int, int, int]) -> Calibration:
    """Return random smooth images with noise."""
    generator = torch.Generator().manual_seed(0)

    def images(count: int) -> Tensor:
        coarse = torch.rand(count, input_size[0], 5, 5, generator=generator)
        smooth = nn.functional.interpolate(coarse, size=input_size[1:], mode="bilinear")
        noise = torch.rand(count, *input_size, generator=generator)
        return (255 * (0.8 * smooth + 0.2 * noise)).to(torch.uint8)

    return Calibration(images(CALIBRATION), images(CALIBRATION // 4))


def _onnxruntime(path: Path, x: Array, threads: int | None) -> Pass:
    onnxruntime = require("onnxruntime")
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    if threads is not None:
        options.intra_op_num_threads = threads
    # allow threads to spin during a pass, but not afterwards, when other models are measured
    options.add_session_config_entry("session.force_spinning_stop", "1")
    for name, size in zip(("batch", "height", "width"), (x.shape[0], *x.shape[2:]), strict=True):
        options.add_free_dimension_override_by_name(name, size)
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return lambda: session.run(None, {INPUT: x})


def _openvino(path: Path, x: Array, form: Form, threads: int | None) -> Pass:
    openvino = require("openvino")
    core = openvino.Core()
    model = core.read_model(str(path)) if path.suffix == ".xml" else openvino.convert_model(str(path))
    model.reshape(list(x.shape))
    options: dict[str, Any] = {
        "INFERENCE_PRECISION_HINT": "bf16" if "bf16" in form.words else "f32",
        "PERFORMANCE_HINT": "LATENCY",  # one pass at a time with all threads
    }
    if threads is not None:
        options["INFERENCE_NUM_THREADS"] = threads
    request = core.compile_model(model, "CPU", options).create_infer_request()
    request.set_input_tensor(openvino.Tensor(np.ascontiguousarray(x), shared_memory=True))
    return request.infer
