"""Writing of a captured graph as ONNX, PyTorch (.pt2) or OpenVINO files."""

import contextlib
import io
import json
import logging
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch.export import ExportedProgram

from ...compat import compiler_errors, save_compiled_package
from ...errors import InputError
from .archive import METADATA_KEY
from .graph import INPUT, Deployed
from .run import require

__all__ = ["write_compiled", "write_onnx", "write_openvino", "write_pt2"]


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Suppress the output and warnings of exporters; their results are checked afterwards."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir", "root")]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def write_onnx(program: ExportedProgram, deployed: Deployed, path: Path) -> None:
    """Write an ONNX file with weights, named dynamic dimensions and metadata."""
    for library in ("onnx", "onnxscript", "onnxruntime"):
        require(library)
    with quiet():
        exported = torch.onnx.export(
            program,
            dynamo=True,
            input_names=[INPUT],
            output_names=list(deployed.names),
            dynamic_shapes=(deployed.dynamic_dims,),
            verbose=False,
        )
        assert exported is not None
        exported.model.metadata_props.update(deployed.about)
        exported.save(str(path), external_data=False)


def write_pt2(program: ExportedProgram, deployed: Deployed, path: Path) -> None:
    """Write a .pt2 file for `torch.export.load`."""
    torch.export.save(program, str(path), extra_files={METADATA_KEY: json.dumps(_about(deployed))})


def write_compiled(program: ExportedProgram, deployed: Deployed, path: Path) -> None:
    """Write a .pt2 package for `torch._inductor.aoti_load_package`: machine code for processors like this one."""
    metadata: dict[str, Any] = {"aot_inductor.metadata": {METADATA_KEY: json.dumps(_about(deployed))}}
    try:
        with quiet():
            save_compiled_package(program, str(path), metadata)
    except compiler_errors() as error:
        raise InputError(f"Compiling needs a working C++ compiler, such as g++: {error}") from error


def write_openvino(onnx_file: Path, deployed: Deployed, smallest: int, path: Path) -> None:
    """Write an OpenVINO model (.xml and .bin) for images with height and width of at least `smallest`.

    Smaller images are not supported, because OpenVINO 2026.4 returns wrong results for larger images after it has
    processed a feature map of one pixel.
    """
    openvino = require("openvino")
    model = openvino.convert_model(str(onnx_file))
    shape = model.input(0).partial_shape
    for dim, name in deployed.dynamic_dims.items():
        shape[dim] = openvino.Dimension(1 if name == "batch" else smallest, -1)
    model.reshape({model.input(0): shape})
    model.set_rt_info(json.dumps(_about(deployed)), METADATA_KEY)
    openvino.save_model(model, str(path), compress_to_fp16=False)


def _about(deployed: Deployed) -> dict[str, str]:
    return {**deployed.about, "names": json.dumps(list(deployed.names))}
