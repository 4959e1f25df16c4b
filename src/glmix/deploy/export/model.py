"""One call from a model to a file that other programs run, checked against the model before it is there."""

import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from torch import nn

from ...errors import InputError
from ...files import check_writable, publish
from .check import TOLERANCE, Check, check, check_sizes, largest_error, own_size
from .graph import Deployed, Outputs, Preprocess, capture, smallest_size
from .int8 import Calibration, Int8Report, compare, quantise
from .run import Exported, need
from .write import write_compiled, write_onnx, write_openvino, write_pt2

__all__ = ["ExportReport", "Format", "export_model", "export_targets"]

Format = Literal["onnx", "pt2", "openvino"]

SUFFIXES: dict[Format, str] = {"onnx": ".onnx", "pt2": ".pt2", "openvino": ".xml"}
INT8_TOLERANCE = 0.5  # mean error: above, what is left is not the model


@dataclass(frozen=True)
class ExportReport:
    """What was written, and how it was found to be the model.

    Args:
        files: the one to load first; for OpenVINO the weights beside it, too.
        format: onnx, pt2 or openvino.
        outputs: their names, in order.
        smallest: the least height and width of an image.
        tolerance: what each check had to keep: of the largest error; with int8 of the mean error, at the model's own
            size alone.
        checks: what was run.
        int8: what quantisation changed; None where nothing was quantised.
        seconds: what it all took.
    """

    files: list[Path]
    format: Format
    outputs: list[str]
    preprocess: Preprocess
    smallest: int
    tolerance: float
    checks: list[Check]
    int8: Int8Report | None
    seconds: float

    @property
    def largest_error(self) -> float:
        return largest_error(self.checks)


def export_model(
    model: nn.Module,
    path: str | Path,
    format: Format | None = None,
    *,
    outputs: Outputs = "classes",
    preprocess: Preprocess = "none",
    compiled: bool = False,
    calibration: Calibration | None = None,
    tolerance: float = TOLERANCE,
    overwrite: bool = False,
    say: Callable[[str], None] = lambda text: None,
) -> ExportReport:
    """Export a model, run the result beside it at five sizes and two batches, and keep it if they agree.

    The model stays as it was; the file computes in float32 on any device that the library that loads it has.

    Args:
        model: a GLNet or what is built on one.
        path: the file; its suffix says which format if `format` does not.
        format: `onnx`, `pt2` (torch.export) or `openvino` (.xml and .bin; needs `pip install openvino`).
        outputs, preprocess: what comes out and what goes in, see `Deployed`.
        compiled: with pt2: compile it for processors like this one (AOTInductor; needs a C++ compiler).
        calibration: with onnx and openvino: quantise to int8 by these images.
        tolerance: the largest difference from the model, as a share of an output's largest value.
        overwrite: replace files that are there.
        say: is told what is being done.
    """
    start = time.perf_counter()
    chosen, targets = export_targets(path, format, compiled=compiled, int8=calibration is not None, overwrite=overwrite)
    deployed = Deployed(model, outputs, preprocess)
    say("Capturing the graph with free batch, height and width.")
    program = capture(deployed)
    proven = smallest_size(program, deployed)
    # the operators of ONNX hold for one pixel as for more
    smallest = deployed.min_size if chosen == "onnx" else proven
    sizes = check_sizes(deployed, smallest)

    with tempfile.TemporaryDirectory() as folder:
        made = Path(folder) / f"model{SUFFIXES[chosen]}"
        graph = Path(folder) / "graph.onnx"
        if chosen == "pt2":
            say("Compiling it; this takes minutes." if compiled else "Writing it.")
            (write_compiled if compiled else write_pt2)(program, deployed, made)
        else:
            say("Translating it to ONNX.")
            write_onnx(program, deployed, graph)
            _finish(graph, deployed, proven, chosen, made)
        say(f"Running it beside the model at {len(sizes)} sizes and two batches.")
        run = Exported(made, trusted=True)
        checks = check(run, deployed, sizes, tolerance)
        report = None
        if calibration is not None:
            say(f"Quantising it by {len(calibration.images)} images.")
            quantised, small = Path(folder) / "quantised.onnx", Path(folder) / f"int8{SUFFIXES[chosen]}"
            quantise(graph, quantised, deployed, calibration.images)
            _finish(quantised, deployed, proven, chosen, small)
            say(f"Running that beside the model, and on {len(calibration.held_out)} other images.")
            made, quantised_run, tolerance = small, Exported(small), INT8_TOLERANCE
            # ranges are found at the model's own size; at others the graph must run, and how well it does is reported
            limits = dict.fromkeys(sizes, sys.float_info.max) | {own_size(deployed, smallest): tolerance}
            checks = [
                each
                for size, limit in limits.items()
                for each in check(quantised_run, deployed, [size], limit, pictures=calibration.held_out)
            ]
            report = compare(run, quantised_run, deployed, calibration.held_out)
        publish([(made.with_suffix(file.suffix), file) for file in targets])
    return ExportReport(
        files=targets[::-1],
        format=chosen,
        outputs=list(deployed.names),
        preprocess=preprocess,
        smallest=smallest,
        tolerance=tolerance,
        checks=checks,
        int8=report,
        seconds=time.perf_counter() - start,
    )


def _finish(graph: Path, deployed: Deployed, smallest: int, format: Format, made: Path) -> None:
    """From an ONNX graph to the format that is asked for."""
    if format == "openvino":
        write_openvino(graph, deployed, smallest, made)
    else:
        made.write_bytes(graph.read_bytes())


def export_targets(
    path: str | Path,
    format: Format | None = None,
    *,
    compiled: bool = False,
    int8: bool = False,
    overwrite: bool = False,
) -> tuple[Format, list[Path]]:
    """The format and the files of an export, the main one last, once it is sure that all that is asked for goes
    together, that its libraries are there, and that the files can be written."""
    target = Path(path)
    by_suffix: dict[str, Any] = {suffix: name for name, suffix in SUFFIXES.items()}
    if format is None and target.suffix not in by_suffix:
        raise InputError(f"{target} does not say its format: name one, or a file that ends in {', '.join(by_suffix)}.")
    chosen: Format = by_suffix[target.suffix] if format is None else format
    if chosen not in get_args(Format):
        raise InputError(f"format must be one of {', '.join(get_args(Format))}, got {chosen!r}.")
    if target.suffix != SUFFIXES[chosen]:
        raise InputError(f"A file of format {chosen} is named something{SUFFIXES[chosen]}, got {target}.")
    if compiled and chosen != "pt2":
        raise InputError(f"Only pt2 can be compiled, got format {chosen}.")
    if int8 and chosen == "pt2":
        raise InputError("int8 is there for onnx and openvino, not for pt2.")
    if chosen == "openvino":
        need("openvino")
    if chosen != "pt2":
        for library in ("onnx", "onnxscript", "onnxruntime"):
            need(library)
    targets = [target.with_suffix(".bin"), target] if chosen == "openvino" else [target]
    check_writable(targets, overwrite)
    return chosen, targets
