"""One run: models and forms, their turns, and a result that is plain data, ready for JSON."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch

from ..errors import InputError
from .forms import DEFAULT_FORMS, Form
from .machine import describe_machine, versions
from .specs import ModelSpec
from .turns import Entry, Progress, plainly, take_turns

__all__ = ["Kind", "Plan", "measure"]

Kind = Literal["inference", "training", "scaling", "profile"]
DEFAULT_SIZES = (224, 512, 1024, 2048)
BATCHES: dict[Kind, int] = {"inference": 8, "training": 16, "scaling": 1, "profile": 8}


@dataclass(frozen=True)
class Plan:
    """What is to be measured.

    Args:
        models: as `ModelSpec` reads them.
        forms: as `Form` reads them.
        kind: inference; training: whole steps; scaling: inference at several sizes; profile: where the time goes.
        batch: images of a pass; None for 8, 16 in training, 1 in scaling.
        sizes: heights and widths; none for the size that each model was made for, several in scaling.
        runs: timed passes of each.
        latency_runs: timed passes of one image, in inference.
        stages: time the stages of GLNets, too.
        threads: to compute with; None for as many as PyTorch takes.
        device: cpu or cuda.
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

    def check(self) -> None:
        """Say what cannot be, before anything is built."""
        if self.kind not in get_args(Kind):
            raise InputError(f"kind must be one of {', '.join(get_args(Kind))}, got {self.kind!r}.")
        numbers = {"batch": self.images, "runs": self.runs, "threads": 1 if self.threads is None else self.threads}
        for name, number in (*numbers.items(), *(("size", size) for size in self.sizes)):
            if number < 1:
                raise InputError(f"{name} must be 1 or more, got {number}.")
        if self.latency_runs < 0:
            raise InputError(f"latency_runs must be 0 or more, got {self.latency_runs}.")
        if len(self.sizes) > 1 and self.kind != "scaling":
            raise InputError(f"Several sizes are for scaling; {self.kind} takes one, got {list(self.sizes)}.")
        if torch.device(self.device).type not in ("cpu", "cuda"):
            raise InputError(f"device must be cpu or cuda, got {self.device!r}.")
        if self.device != "cpu" and not torch.cuda.is_available():
            raise InputError(f"device is {self.device}, and PyTorch finds no GPU here.")
        specs, forms = self.parsed()
        if not any(spec.is_ours or not form.needs_glnet for spec in specs for form in forms):
            raise InputError(
                f"Nothing to measure: {', '.join(self.forms)} are forms of a GLNet, and {', '.join(self.models)} none."
            )

    @property
    def images(self) -> int:
        return BATCHES[self.kind] if self.batch is None else self.batch

    def parsed(self) -> tuple[list[ModelSpec], list[Form]]:
        specs = [ModelSpec.parse(text) for text in dict.fromkeys(self.models)]
        forms = [Form.parse(text, training=self.kind == "training") for text in dict.fromkeys(self.forms)]
        if not specs or not forms:
            raise InputError("There must be a model and a form at least.")
        return specs, forms

    def sizes_of(self, spec: ModelSpec) -> list[tuple[int, int]]:
        if self.sizes or self.kind == "scaling":
            return [(size, size) for size in dict.fromkeys(self.sizes or DEFAULT_SIZES)]
        _, height, width = spec.input_size()
        return [(height, width)]


def measure(plan: Plan, progress: Progress = plainly) -> dict[str, Any]:
    """Measure what is planned, and return it with all there is to know about how.

    `rows` are models in forms at sizes, in which `error` says why one has no numbers; `left_out` are pairs of a model
    and a form that only GLNets have.
    """
    plan.check()
    threads = torch.get_num_threads() if plan.threads is None else plan.threads
    specs, forms = plan.parsed()
    pairs = [(spec, form) for spec in specs for form in forms]
    measured = [(spec, form) for spec, form in pairs if spec.is_ours or not form.needs_glnet]
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
    """What one worker is to do."""
    training = plan.kind == "training"
    hooked = spec.is_ours and form.network != "plain" and form.runtime == ""
    return Entry(
        {"do": "build", "model": spec.text, "form": form.text, "size": size, "training": training},
        plan.images,
        latency=plan.kind == "inference" and plan.latency_runs > 0,
        stages=plan.stages and hooked,
    )


def _product(entry: Entry) -> dict[str, Any]:
    """The machine's own rate."""
    seconds = [run[1] for run in entry.runs]
    return {
        "macs": entry.facts["macs"],
        "macs_per_second": entry.facts["macs"] / statistics.median(seconds),
        "runs": entry.runs,
    }


def _row(entry: Entry, plan: Plan, matmul: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """What was found of one model in one form at one size."""
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
        # a step of training is a forward pass and, in its gradients by inputs and by weights, two more
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
    if len(values) == 1:
        return values[0], values[0], values[0]
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
    return low, middle, high
