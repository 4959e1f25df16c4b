"""Export of a model to a file, with a check of the file against the model before it is written."""

import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from torch import nn

from ...compat import uncompiled
from ...errors import InputError
from ...files import check_writable, publish
from .check import TOLERANCE, Check, check, check_sizes, input_size_of, largest_error
from .detector import DeployedDetector, check_detector, is_detector, write_detector
from .graph import Deployed, Outputs, Preprocess, capture, smallest_size
from .int8 import Calibration, Int8Report, compare, quantise
from .run import Exported, require
from .write import write_compiled, write_onnx, write_openvino, write_pt2

__all__ = ["ExportReport", "Format", "export_model", "export_targets"]

Format = Literal["onnx", "pt2", "openvino"]

SUFFIXES: dict[Format, str] = {"onnx": ".onnx", "pt2": ".pt2", "openvino": ".xml"}
RUNNER = Path(__file__).parents[1] / "onnx_model.py"
INT8_TOLERANCE = 0.5  # the maximum mean error of a quantised model


@dataclass(frozen=True)
class ExportReport:
    """The files of an export and the results of its checks.

    Args:
        files: the file to load, followed by the weight file in the case of OpenVINO and by the runner if there is one.
        format: onnx, pt2 or openvino.
        outputs: the names of the outputs, in order.
        preprocess: the input images, see `Deployed`.
        batch: the batch size; None for any.
        smallest: the smallest height and width of an image.
        tolerance: the maximum error of each check. With int8 it applies to the mean error at the model's input size.
        checks: the error of each check.
        int8: the effect of quantisation; None without quantisation.
        seconds: duration of the export.
    """

    files: list[Path]
    format: Format
    outputs: list[str]
    preprocess: Preprocess
    batch: int | None
    smallest: int
    tolerance: float
    checks: list[Check]
    int8: Int8Report | None
    seconds: float

    @property
    def largest_error(self) -> float:
        """The largest error of all checks."""
        return largest_error(self.checks)


def export_model(
    model: nn.Module,
    path: str | Path,
    format: Format | None = None,
    *,
    outputs: Outputs = "classes",
    preprocess: Preprocess | None = None,
    compiled: bool = False,
    calibration: Calibration | None = None,
    tolerance: float = TOLERANCE,
    runner: bool = False,
    overwrite: bool = False,
    log: Callable[[str], None] = lambda text: None,
) -> ExportReport:
    """Export a classifier, segmentation network, detector or backbone to a file.

    Before the file is written, it is compared with the model at several image sizes. The model is not changed. The file
    computes in float32 unless it is quantised.

    Args:
        model: a GLNet, or a module that contains one.
        path: the output file. Its suffix determines the format if `format` is None.
        format: `onnx`, `pt2` (torch.export) or `openvino` (.xml and .bin; needs `pip install openvino`).
        outputs: the outputs of the graph, see `Deployed`.
        preprocess: the inputs of the graph, see `Deployed` and `DeployedDetector`. None: `uint8` for a detector, `none`
            for other models.
        compiled: only for pt2: compile for processors like this one (AOTInductor; needs a C++ compiler).
        calibration: only for onnx and openvino: quantise to int8 with these images.
        tolerance: the maximum difference from the model, relative to the largest value of an output.
        runner: only for onnx: also write `onnx_model.py` beside the file, which runs it without PyTorch.
        overwrite: replace existing files.
        log: called with a message for each step.

    Returns:
        The files and the results of the checks.

    Raises:
        InputError: an argument is invalid, or the exported graph differs from the model.
        MissingExtraError: a required library is not installed.
        FileExistsError: a file exists and `overwrite` is false.
    """
    start = time.perf_counter()
    chosen, targets = export_targets(
        path, format, compiled=compiled, int8=calibration is not None, runner=runner, overwrite=overwrite
    )
    if outputs == "classes" and is_detector(uncompiled(model)):
        if chosen != "onnx" or calibration is not None:
            raise InputError("A detector can only be exported to onnx in float32; its feature maps to all formats.")
        return _export_detector(uncompiled(model), targets, preprocess or "uint8", tolerance, start, log)
    deployed = Deployed(model, outputs, preprocess or "none")
    if chosen == "pt2" and outputs == "classes" and deployed.task == "segmentation":
        raise InputError(
            "A segmentation network cannot be exported to pt2, because torch.export makes a constant of the padding of "
            "the example image: use onnx, or export its feature maps."
        )
    log("Capturing the graph with dynamic batch size, height and width.")
    program = capture(deployed)
    proven = smallest_size(program, deployed)
    # ONNX operators do not depend on the size, not even for feature maps of one pixel
    smallest = deployed.min_size if chosen == "onnx" else proven
    sizes = check_sizes(deployed, smallest)

    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / f"model{SUFFIXES[chosen]}"
        graph = Path(folder) / "graph.onnx"
        if chosen == "pt2":
            log("Compiling the graph; this takes minutes." if compiled else "Writing the file.")
            (write_compiled if compiled else write_pt2)(program, deployed, output)
        else:
            log("Converting the graph to ONNX.")
            write_onnx(program, deployed, graph)
            _convert(graph, deployed, proven, chosen, output)
        log(f"Comparing the file with the model at {len(sizes)} image sizes and two batch sizes.")
        run = Exported(output, trusted=True)
        checks = check(run, deployed, sizes, tolerance)
        report = None
        if calibration is not None:
            log(f"Quantising the graph with {len(calibration.images)} images.")
            quantised, output = Path(folder) / "quantised.onnx", Path(folder) / f"int8{SUFFIXES[chosen]}"
            quantise(graph, quantised, deployed, calibration.images)
            _convert(quantised, deployed, proven, chosen, output)
            log(f"Comparing the quantised graph with the model, and on {len(calibration.held_out)} held-out images.")
            quantised_run, tolerance = Exported(output), INT8_TOLERANCE
            # calibration uses the model's input size; at other sizes the graph must run, and the error is only reported
            limits = dict.fromkeys(sizes, sys.float_info.max) | {input_size_of(deployed, smallest): tolerance}
            checks = [
                each
                for size, limit in limits.items()
                for each in check(quantised_run, deployed, [size], limit, pictures=calibration.held_out)
            ]
            report = compare(run, quantised_run, deployed, calibration.held_out)
        publish([(_source(output, file), file) for file in targets])
    return ExportReport(
        files=targets[::-1],
        format=chosen,
        outputs=list(deployed.names),
        preprocess=deployed.preprocess,
        batch=None,
        smallest=smallest,
        tolerance=tolerance,
        checks=checks,
        int8=report,
        seconds=time.perf_counter() - start,
    )


def _export_detector(
    model: nn.Module,
    targets: list[Path],
    preprocess: Preprocess,
    tolerance: float,
    start: float,
    log: Callable[[str], None],
) -> ExportReport:
    """Export a detector to ONNX, see `export_model`."""
    deployed = DeployedDetector(model, preprocess)
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "model.onnx"
        log("Tracing the detector and converting it to ONNX.")
        write_detector(deployed, output)
        log("Comparing the detections of the file with those of the detector.")
        checks = check_detector(Exported(output), deployed, tolerance)
        publish([(_source(output, file), file) for file in targets])
    return ExportReport(
        files=targets[::-1],
        format="onnx",
        outputs=list(deployed.names),
        preprocess=preprocess,
        batch=1,
        smallest=1,
        tolerance=tolerance,
        checks=checks,
        int8=None,
        seconds=time.perf_counter() - start,
    )


def _source(output: Path, target: Path) -> Path:
    """Return the file whose content is written to a target."""
    return RUNNER if target.name == RUNNER.name else output.with_suffix(target.suffix)


def _convert(graph: Path, deployed: Deployed, smallest: int, format: Format, output: Path) -> None:
    """Convert an ONNX file to the requested format."""
    if format == "openvino":
        write_openvino(graph, deployed, smallest, output)
    else:
        output.write_bytes(graph.read_bytes())


def export_targets(
    path: str | Path,
    format: Format | None = None,
    *,
    compiled: bool = False,
    int8: bool = False,
    runner: bool = False,
    overwrite: bool = False,
) -> tuple[Format, list[Path]]:
    """Check the arguments of an export, the required libraries and the output files.

    Args:
        path: see `export_model`.
        format: see `export_model`.
        compiled: see `export_model`.
        int8: whether the model is quantised.
        runner: see `export_model`.
        overwrite: see `export_model`.

    Returns:
        The format, and the output files, of which the last one is the file to load.

    Raises:
        InputError: the arguments are invalid.
        MissingExtraError: a required library is not installed.
        FileExistsError: a file exists and `overwrite` is false.
    """
    target = Path(path)
    by_suffix: dict[str, Any] = {suffix: name for name, suffix in SUFFIXES.items()}
    if format is None and target.suffix not in by_suffix:
        raise InputError(f"The suffix of {target} is not one of {', '.join(by_suffix)}: change it or set the format.")
    chosen: Format = by_suffix[target.suffix] if format is None else format
    if chosen not in get_args(Format):
        raise InputError(f"format must be one of {', '.join(get_args(Format))}, got {chosen!r}.")
    if target.suffix != SUFFIXES[chosen]:
        raise InputError(f"A file of format {chosen} must have the suffix {SUFFIXES[chosen]}, got {target}.")
    if compiled and chosen != "pt2":
        raise InputError(f"Only pt2 can be compiled, got format {chosen}.")
    if int8 and chosen == "pt2":
        raise InputError("int8 is supported for onnx and openvino, not for pt2.")
    if runner and chosen != "onnx":
        raise InputError(f"A runner is only written for onnx, got format {chosen}.")
    if chosen == "openvino":
        require("openvino")
    if chosen != "pt2":
        for library in ("onnx", "onnxscript", "onnxruntime"):
            require(library)
    targets = [target.with_suffix(".bin"), target] if chosen == "openvino" else [target]
    if runner:
        targets.insert(0, target.with_name(RUNNER.name))
    check_writable(targets, overwrite)
    return chosen, targets
