"""A benchmark run of models in forms, with a result that can be written as JSON."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch

from ..errors import InputError
from .forms import DEFAULT_FORMS, Form
from .machine import describe_machine, versions
from .specs import ModelSpec
from .turns import Entry, Progress, no_progress, take_turns

__all__ = ["Kind", "Plan", "measure"]

Kind = Literal["inference", "training", "scaling", "profile"]
DEFAULT_SIZES = (224, 512, 1024, 2048)
BATCHES: dict[Kind, int] = {"inference": 8, "training": 16, "scaling": 1, "profile": 8}


@dataclass(frozen=True)
class Plan:
    """The settings of a benchmark run.

    Args:
        models: model names, see `ModelSpec`.
        forms: execution modes, see `Form`.
        kind: "inference", "training" (complete training steps), "scaling" (inference at several image sizes) or
            "profile" (time per operator).
        batch: batch size; None for 8, 16 in training, 1 in scaling.
        sizes: image sizes (height = width), several only in scaling; empty for the input size of each model.
        runs: number of timed passes per model and form.
        latency_runs: number of timed passes with batch size 1, in inference.
        stages: measure the time of each stage of GLNets.
        threads: number of CPU threads; None for PyTorch's default.
        device: cpu or cuda.
        build_jobs: number of models that are built and compiled at the same time.
    """

    models: Sequence[str]
    forms: Sequence[str] = DEFAULT_FORMS
    kind: Kind = "inference"
    batch: int | None = None
    sizes: Sequence[int] = ()
    runs: int = 10
    latency_runs: int = 100
    stages: bool = False
    threads: int | None = None
    device: str = "cpu"
    build_jobs: int = 1

    def check(self) -> None:
        """Raise InputError if a setting is invalid, before any model is built."""
        if self.kind not in get_args(Kind):
            raise InputError(f"kind must be one of {', '.join(get_args(Kind))}, got {self.kind!r}.")
        numbers = {"batch": self.images, "runs": self.runs, "build_jobs": self.build_jobs}
        numbers["threads"] = 1 if self.threads is None else self.threads
        for name, number in (*numbers.items(), *(("size", size) for size in self.sizes)):
            if number < 1:
                raise InputError(f"{name} must be 1 or more, got {number}.")
        if self.latency_runs < 0:
            raise InputError(f"latency_runs must be 0 or more, got {self.latency_runs}.")
        if len(self.sizes) > 1 and self.kind != "scaling":
            raise InputError(f"Only scaling accepts several sizes; {self.kind} accepts one, got {list(self.sizes)}.")
        if torch.device(self.device).type not in ("cpu", "cuda"):
            raise InputError(f"device must be cpu or cuda, got {self.device!r}.")
        if self.device != "cpu" and not torch.cuda.is_available():
            raise InputError(f"device is {self.device}, but PyTorch finds no GPU.")
        specs, forms = self.parsed()
        if not any(spec.is_glnet or not form.needs_glnet for spec in specs for form in forms):
            raise InputError(
                f"Nothing to measure: {', '.join(self.forms)} are supported only for GLNets, but "
                f"{', '.join(self.models)} are not GLNets."
            )

    @property
    def images(self) -> int:
        """The batch size."""
        return BATCHES[self.kind] if self.batch is None else self.batch

    def parsed(self) -> tuple[list[ModelSpec], list[Form]]:
        """Return the parsed models and forms without duplicates."""
        specs = [ModelSpec.parse(text) for text in dict.fromkeys(self.models)]
        forms = [Form.parse(text, training=self.kind == "training") for text in dict.fromkeys(self.forms)]
        if not specs or not forms:
            raise InputError("At least one model and one form are needed.")
        return specs, forms

    def sizes_of(self, spec: ModelSpec) -> list[tuple[int, int]]:
        """Return the image sizes (height, width) for a model."""
        if self.sizes or self.kind == "scaling":
            return [(size, size) for size in dict.fromkeys(self.sizes or DEFAULT_SIZES)]
        _, height, width = spec.input_size()
        return [(height, width)]


def measure(plan: Plan, progress: Progress = no_progress) -> dict[str, Any]:
    """Run a benchmark.

    Args:
        plan: the settings.
        progress: wraps the loops to show their progress.

    Returns:
        The measurements with a description of the machine and the settings. `rows` has one entry per model, form and
        image size; `error` is the reason if there are no measurements. `left_out` lists the pairs of model and form
        that are supported only for GLNets.

    Raises:
        InputError: a setting is invalid.
    """
    plan.check()
    threads = torch.get_num_threads() if plan.threads is None else plan.threads
    specs, forms = plan.parsed()
    pairs = [(spec, form) for spec in specs for form in forms]
    measured = [(spec, form) for spec, form in pairs if spec.is_glnet or not form.needs_glnet]
    entries = [_entry(plan, spec, form, size) for spec, form in measured for size in plan.sizes_of(spec)]
    precisions = sorted({form.precision for form in forms} - {"int8"}, reverse=True)
    products = [Entry({"do": "build_matmul", "precision": precision}, 1) for precision in precisions]
    take_turns(
        [*entries, *([] if plan.kind == "profile" else products)],
        runs=plan.runs,
        latency_runs=plan.latency_runs,
        profile=plan.kind == "profile",
        device=plan.device,
        threads=threads,
        build_jobs=plan.build_jobs,
        progress=progress,
    )
    matmul = {entry.build["precision"]: _product(entry) for entry in products if entry.runs}
    return {
        "kind": plan.kind,
        "machine": describe_machine(plan.device, threads),
        "versions": versions(),
        "settings": {
            "batch": plan.images,
            "runs": plan.runs,
            "latency_runs": plan.latency_runs if plan.kind == "inference" else 0,
            "threads": threads,
            "device": plan.device,
        },
        "matmul": matmul,
        "rows": [_row(entry, plan, matmul) for entry in entries],
        "left_out": [[spec.text, form.text] for spec, form in pairs if (spec, form) not in measured],
    }


def _entry(plan: Plan, spec: ModelSpec, form: Form, size: tuple[int, int]) -> Entry:
    """Return the task of one worker."""
    build: dict[str, Any] = {"do": "build", "model": spec.text, "form": form.text, "size": size}
    build |= {"training": plan.kind == "training", "profiled": plan.kind == "profile"}
    hooked = spec.is_glnet and form.network != "plain" and form.runtime == ""
    return Entry(
        build,
        plan.images,
        latency=plan.kind == "inference" and plan.latency_runs > 0,
        stages=plan.stages and hooked,
    )


def _product(entry: Entry) -> dict[str, Any]:
    """Return the measured rate of the matrix product."""
    seconds = [run[1] for run in entry.runs]
    return {
        "macs": entry.facts["macs"],
        "macs_per_second": entry.facts["macs"] / statistics.median(seconds),
        "runs": entry.runs,
    }


def _row(entry: Entry, plan: Plan, matmul: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Return the measurements of one model in one form at one image size."""
    form = Form.parse(entry.build["form"], training=plan.kind == "training")
    height, width = entry.build["size"]
    row: dict[str, Any] = {
        "model": entry.build["model"],
        "form": form.text,
        "batch": entry.batch,
        "height": height,
        "width": width,
        "precision": form.precision,
        **entry.facts,
        "peak_memory_mib": entry.memory,
        "runs": entry.runs,
        "latency_runs": entry.latency_runs,
        "error": entry.error,
    }
    if entry.profile is not None:
        row["profile"] = entry.profile
    if entry.runs:
        seconds = [run[1] for run in entry.runs]
        low, median, high = quartiles(seconds)
        megapixels = entry.batch * height * width / 1e6
        # a training step computes about three forward passes: forward, gradients of inputs, gradients of weights
        macs = entry.facts["macs"] * entry.batch * (3 if plan.kind == "training" else 1)
        peak = matmul.get(form.precision)
        row |= {
            "seconds": median,
            "seconds_quartiles": [low, high],
            "images_per_second": entry.batch / median,
            "images_per_second_quartiles": [entry.batch / high, entry.batch / low],
            "seconds_per_megapixel": median / megapixels,
            "peak_memory_mib_per_megapixel": None if entry.memory is None else entry.memory / megapixels,
            "roofline": None if peak is None else macs / median / peak["macs_per_second"],
        }
    if entry.latency_runs:
        milliseconds = sorted(1e3 * run[1] for run in entry.latency_runs)
        row |= {
            "latency_ms": statistics.median(milliseconds),
            "latency_ms_p99": milliseconds[-(-99 * len(milliseconds) // 100) - 1],
        }
    if entry.stage_runs:
        row["stage_seconds"] = {
            name: statistics.median(run[name] for run in entry.stage_runs) for name in entry.stage_runs[0]
        }
    return row


def quartiles(values: Sequence[float]) -> tuple[float, float, float]:
    """Return the lower quartile, the median and the upper quartile."""
    if len(values) == 1:
        return values[0], values[0], values[0]
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
    return low, middle, high
