"""Loading of exported files as functions from arrays to named arrays, for all formats and safe for threads."""

import importlib
import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.export import ExportedProgram

from ...compat import load_compiled_package
from ...errors import InputError, MissingExtraError
from .archive import METADATA_KEY, is_compiled, read_program

__all__ = ["Exported", "load_exported", "require"]

Array = NDArray[Any]


def require(library: str) -> Any:
    """Import an optional library, or raise MissingExtraError with the command that installs it.

    OpenVINO is not part of any extra of this package.
    """
    try:
        return importlib.import_module(library)
    except ImportError as error:
        package = "openvino" if library == "openvino" else "'glmix[export]'"
        raise MissingExtraError(f"This format needs {library}: pip install {package}") from error


class Exported:
    """An exported model as a function. Several threads may call it at the same time.

    Args:
        path: a .onnx, .pt2 or .xml file.
        threads: number of CPU threads per call; None for the default of the library.
        trusted: load a .pt2 without checking it, which may run any code in the file. This is required for compiled
            files, which contain machine code.
        bfloat16: compute a .xml in bfloat16; an int8 file, everything that is not quantised. This is faster on
            processors with instructions for bfloat16.

    Raises:
        InputError: the file has another format, is damaged, may run code and is not trusted, or cannot be computed in
            bfloat16.
        FileNotFoundError: the file does not exist.
    """

    def __init__(
        self, path: str | Path, threads: int | None = None, *, trusted: bool = False, bfloat16: bool = False
    ) -> None:
        path = Path(path)
        if path.suffix not in (".onnx", ".pt2", ".xml"):
            raise InputError(f"{path} is not an exported model: the suffix must be .onnx, .pt2 or .xml.")
        if bfloat16 and path.suffix != ".xml":
            raise InputError(f"{path} cannot be computed in bfloat16, only .xml files of OpenVINO.")
        if not path.is_file():
            raise FileNotFoundError(f"There is no file {path}.")
        if path.suffix == ".pt2":
            self._run, about = _open_pt2(path, trusted)
        elif path.suffix == ".onnx":
            self._run, about = _open_onnx(path, threads)
        else:
            self._run, about = _open_openvino(path, threads, bfloat16)
        self.about: dict[str, Any] = {key: _value(text) for key, text in about.items()}
        self.names: list[str] = self.about["names"]

    def __call__(self, images: Array, **inputs: Any) -> dict[str, Array]:
        """Return the outputs by name.

        Args:
            images: images in the format given by `about["preprocess"]`.
            inputs: further inputs of the graph: `score`, the minimum score of a detection.
        """
        return dict(zip(self.names, self._run(np.ascontiguousarray(images), **inputs), strict=True))


load_exported = Exported


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text


def _open_onnx(path: Path, threads: int | None) -> tuple[Callable[..., list[Array]], dict[str, str]]:
    require("onnxruntime")
    from ..onnx_model import OnnxModel

    model = OnnxModel(path, threads)
    about = dict(model.session.get_modelmeta().custom_metadata_map)
    return lambda *args, **inputs: list(model.run(*args, **inputs).values()), {
        **about,
        "names": json.dumps(model.names),
    }


def _callable(program: ExportedProgram) -> Callable[..., Any]:
    """Return the graph as a function. In torch 2.9, threads cannot share its guards; a hook checks the sizes anyway."""
    return program.module(check_guards=False)


def _open_pt2(path: Path, trusted: bool) -> tuple[Callable[..., list[Array]], dict[str, str]]:
    function: Any
    if is_compiled(path):
        if not trusted:
            raise InputError(f"{path} contains machine code: load it with trusted=True if you compiled it yourself.")
        function = load_compiled_package(str(path))
        about = json.loads(function.get_metadata()[METADATA_KEY])
    elif trusted:
        extra = {METADATA_KEY: ""}
        function = _callable(torch.export.load(str(path), extra_files=extra))
        about = json.loads(extra[METADATA_KEY])
    else:
        program, about = read_program(path)
        function = _callable(program)

    def run(images: Array) -> list[Array]:
        with torch.inference_mode():
            return [output.numpy() for output in function(torch.from_numpy(images))]

    return run, about


def _open_openvino(
    path: Path, threads: int | None, bfloat16: bool
) -> tuple[Callable[..., list[Array]], dict[str, str]]:
    openvino = require("openvino")
    # float32 is the precision of the check at export; OpenVINO's default is bfloat16 on newer processors
    options: dict[str, Any] = {"INFERENCE_PRECISION_HINT": "bf16" if bfloat16 else "f32"}
    if threads is not None:
        options["INFERENCE_NUM_THREADS"] = threads
    core = openvino.Core()
    model = core.read_model(str(path))
    compiled = core.compile_model(model, "CPU", options)
    local = threading.local()  # an inference request is not thread-safe
    least = [dimension.get_min_length() for dimension in model.input(0).partial_shape]

    def run(images: Array) -> list[Array]:
        # with one thread, OpenVINO 2026.4 returns the previous result instead of an error
        if images.ndim != len(least) or any(size < low for size, low in zip(images.shape, least, strict=True)):
            raise InputError(f"The input shape of this file must be at least {least}, got {list(images.shape)}.")
        if not hasattr(local, "request"):
            local.request = compiled.create_infer_request()
        local.request.infer([images])
        return [np.array(local.request.get_output_tensor(index).data) for index in range(len(compiled.outputs))]

    info = model.get_rt_info(METADATA_KEY).value if model.has_rt_info(METADATA_KEY) else "{}"
    return run, json.loads(info)
