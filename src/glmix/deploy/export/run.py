"""Exported files as functions: whatever their format, arrays in and named arrays out, from any number of threads."""

import importlib
import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ...compat import load_compiled_package
from ...errors import InputError, MissingExtraError
from .archive import ABOUT, is_compiled, read_program
from .graph import INPUT

__all__ = ["Exported", "load_exported", "need"]

Array = NDArray[Any]


def need(library: str) -> Any:
    """Import a library that the package does not depend on, or say how to get it. No extra holds OpenVINO."""
    try:
        return importlib.import_module(library)
    except ImportError as error:
        package = "openvino" if library == "openvino" else "'glmix[export]'"
        raise MissingExtraError(f"This format needs {library}: pip install {package}") from error


class Exported:
    """A file that was exported: call it with images, as many threads as like at once.

    Args:
        path: .onnx, .pt2 or .xml.
        threads: of the computation of one call; None for what the library chooses.
        trusted: load a .pt2 without checking it first, which may run any code that it holds. A compiled one is machine
            code and is loaded in this way alone.

    Raises:
        InputError: the file has no such format, is damaged, or holds what may run code and is not trusted.
        FileNotFoundError: there is no file.
    """

    def __init__(self, path: str | Path, threads: int | None = None, *, trusted: bool = False) -> None:
        path = Path(path)
        if path.suffix not in (".onnx", ".pt2", ".xml"):
            raise InputError(f"{path} is no exported model: known are .onnx, .pt2, .xml.")
        if not path.is_file():
            raise FileNotFoundError(f"No file at {path}.")
        if path.suffix == ".pt2":
            self._run, about = _open_pt2(path, trusted)
        else:
            self._run, about = (_open_onnx if path.suffix == ".onnx" else _open_openvino)(path, threads)
        self.about: dict[str, Any] = {key: _value(text) for key, text in about.items()}
        self.names: list[str] = self.about["names"]

    def __call__(self, images: Array) -> dict[str, Array]:
        """Images as the file takes them (`about["preprocess"]`) to its outputs by name."""
        return dict(zip(self.names, self._run(np.ascontiguousarray(images)), strict=True))


load_exported = Exported


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text


def _open_onnx(path: Path, threads: int | None) -> tuple[Callable[[Array], list[Array]], dict[str, str]]:
    onnxruntime = need("onnxruntime")
    options = onnxruntime.SessionOptions()
    if threads is not None:
        options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    about = dict(session.get_modelmeta().custom_metadata_map)
    names = [output.name for output in session.get_outputs()]
    return lambda images: session.run(names, {INPUT: images}), {**about, "names": json.dumps(names)}


def _open_pt2(path: Path, trusted: bool) -> tuple[Callable[[Array], list[Array]], dict[str, str]]:
    function: Any
    if is_compiled(path):
        if not trusted:
            raise InputError(f"{path} holds machine code: load it with trusted=True if you compiled it yourself.")
        function = load_compiled_package(str(path))
        about = json.loads(function.get_metadata()[ABOUT])
    elif trusted:
        extra = {ABOUT: ""}
        function = torch.export.load(str(path), extra_files=extra).module()
        about = json.loads(extra[ABOUT])
    else:
        program, about = read_program(path)
        function = program.module()

    def run(images: Array) -> list[Array]:
        with torch.inference_mode():
            return [output.numpy() for output in function(torch.from_numpy(images))]

    return run, about


def _open_openvino(path: Path, threads: int | None) -> tuple[Callable[[Array], list[Array]], dict[str, str]]:
    openvino = need("openvino")
    # the precision that was checked; left alone, newer processors compute in bfloat16
    options: dict[str, Any] = {"INFERENCE_PRECISION_HINT": "f32"}
    if threads is not None:
        options["INFERENCE_NUM_THREADS"] = threads
    core = openvino.Core()
    model = core.read_model(str(path))
    compiled = core.compile_model(model, "CPU", options)
    own = threading.local()  # a request serves one thread
    least = [dimension.get_min_length() for dimension in model.input(0).partial_shape]

    def run(images: Array) -> list[Array]:
        # on one thread OpenVINO 2026.4 gives the answer to the images before, and no error
        if images.ndim != len(least) or any(size < low for size, low in zip(images.shape, least, strict=True)):
            raise InputError(f"This file takes images from {least} on, got {list(images.shape)}.")
        if not hasattr(own, "request"):
            own.request = compiled.create_infer_request()
        own.request.infer([images])
        return [np.array(own.request.get_output_tensor(index).data) for index in range(len(compiled.outputs))]

    info = model.get_rt_info(ABOUT).value if model.has_rt_info(ABOUT) else "{}"
    return run, json.loads(info)
