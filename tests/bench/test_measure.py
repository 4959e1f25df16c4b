"""Interleaved measurement of models in processes; a failure does not affect the other models."""

import itertools
import os
import signal
import time
from pathlib import Path

import pytest
import torch

from glmix.bench import Plan, draw, format_report, measure
from glmix.bench.process import Worker, WorkerError
from glmix.bench.profile import profile_pass
from glmix.bench.stages import stage_seconds
from glmix.compat import record_compiled_kernels
from glmix.deploy.optimize import can_compile
from tests.processes import Command, bench_worker

MODELS = ("test_glnet", "test_resnet", "test_glnet(head_dim=5)")


@pytest.fixture(scope="module")
def result():
    plan = Plan(MODELS, ("eager", "plain"), sizes=(64,), batch=2, runs=3, latency_runs=12, threads=1)
    with pytest.MonkeyPatch.context() as patch:  # `test_a_worker_is_idle_...` starts one as `glmix bench` does
        patch.setattr("glmix.bench.process._start", bench_worker)
        return {"command": "glmix bench", **measure(plan)}


def rows_of(result):
    return {(row["model"], row["form"]): row for row in result["rows"]}


def test_passes_take_turns_and_never_overlap(result):
    rows = [row for row in result["rows"] if row["error"] is None]
    spans = [(start, seconds, index) for index, row in enumerate(rows) for start, seconds in row["runs"]]
    spans += [(start, seconds, len(rows)) for start, seconds in result["matmul"]["float32"]["runs"]]
    spans.sort()
    assert [index for _, _, index in spans] == [0, 1, 2, 3] * 3
    spans += [(start, seconds, index) for index, row in enumerate(rows) for start, seconds in row["latency_runs"]]
    spans.sort()
    assert all(a[0] + a[1] <= b[0] for a, b in itertools.pairwise(spans))
    assert [len(row["latency_runs"]) for row in rows] == [12, 12, 12]


def test_the_statistics_of_a_row_match_its_runs(result):
    row = rows_of(result)["test_glnet", "eager"]
    seconds = sorted(run[1] for run in row["runs"])
    assert row["seconds"] == seconds[1]
    assert row["images_per_second"] == 2 / seconds[1]
    low, high = row["images_per_second_quartiles"]
    assert low <= row["images_per_second"] <= high
    assert row["latency_ms"] <= row["latency_ms_p99"] == 1e3 * max(run[1] for run in row["latency_runs"])
    assert row["parameters"] == 397003
    assert row["macs"] == sum(row["macs_by_kind"].values()) - row["macs_by_kind"]["softmax"]
    assert row["roofline"] == pytest.approx(
        row["macs"] * row["images_per_second"] / result["matmul"]["float32"]["macs_per_second"]
    )
    assert 0 < row["peak_memory_mib"] < 100


def test_the_plain_form_has_the_same_macs(result):
    rows = rows_of(result)
    assert rows["test_glnet", "plain"]["macs"] == rows["test_glnet", "eager"]["macs"]


def test_a_model_that_cannot_be_built_has_an_error_in_its_row(result):
    rows = rows_of(result)
    for form in ("eager", "plain"):
        assert rows[MODELS[2], form]["error"] == "A width of 32 channels is not divisible by head_dim=5."
        assert rows[MODELS[2], form]["runs"] == []
    assert len(rows) == 5


def test_glnet_forms_of_other_models_are_reported_as_left_out(result):
    assert result["left_out"] == [["test_resnet", "plain"]]
    assert "supported only for GLNets: test_resnet plain." in format_report(result)


def test_report_and_plot_of_a_result(result):
    page = format_report(result)
    for row in result["rows"]:
        assert row["model"] in page
        if row["error"] is None:
            latency = f"{row['latency_ms']:#.3g}".rstrip(".")  # three significant digits
            assert f"{latency} ms" in page
    assert "is not divisible by head_dim=5." in page
    assert result["machine"]["cpu"] in page
    assert f"torch {torch.__version__}" in page
    assert draw(result)[:4] == b"\x89PNG"


def test_a_worker_is_idle_between_requests_and_its_end_is_reported():
    with Worker(threads=2) as worker:
        worker.ask("build", model="test_glnet", form="eager", size=(64, 64), threads=2)
        worker.ask("warm", batch=8)
        worker.ask("turn", batch=8)
        time.sleep(0.1)
        before = _busy(worker.pid)
        time.sleep(0.5)
        assert _busy(worker.pid) - before <= 0.02
        with pytest.raises(WorkerError, match="Unknown word 'swift'"):
            worker.ask("build", model="test_glnet", form="swift", size=(64, 64))
        folder = Path(worker._folder.name)
        os.kill(worker.pid, signal.SIGKILL)
        with pytest.raises(WorkerError, match="the process was killed, probably because the system ran out of memory"):
            worker.ask("turn", batch=8)
    assert not folder.exists()


def _busy(pid: int) -> float:
    """Return the CPU time of a process in seconds."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


ADDED = """
import torch
from glmix.bench.memory import added_memory
from glmix.memory import release_memory_at_once

def run():
    kept = torch.ones(16 << 20)  # 64 MiB
    return (kept + 1).sum()  # and as many again

release_memory_at_once()
run()
print(added_memory(run), added_memory(run))
"""


def test_memory_is_what_a_pass_adds_at_its_peak_each_time():
    printed, _ = Command(code=ADDED).communicate()
    assert [float(word) for word in printed.split()] == pytest.approx([128, 128], abs=2)


def test_stages_are_timed_one_by_one():
    import timm

    model = timm.create_model("test_glnet").eval()
    x = torch.randn(1, 3, 64, 64)

    def run():
        with torch.inference_mode():
            model(x)

    start = time.perf_counter()
    found = stage_seconds(model, run)
    whole = time.perf_counter() - start
    assert list(found) == ["stem", "stage 0", "stage 1", "stage 2", "stage 3"]
    assert all(seconds > 0 for seconds in found.values())
    assert sum(found.values()) < whole
    assert not any(module._forward_hooks for module in model.modules())
    with pytest.raises(ValueError, match="for a GLNet that is not compiled"):
        stage_seconds(torch.nn.Identity(), run)


class Convolutions(torch.nn.Sequential):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x).softmax(1)


def test_a_profile_has_the_kinds_of_operators():
    model = Convolutions(
        torch.nn.Conv2d(8, 16, 1), torch.nn.Conv2d(16, 16, 3, groups=16), torch.nn.Conv2d(16, 8, 3)
    ).eval()
    x = torch.randn(2, 8, 16, 16)
    found = profile_pass(lambda: model(x))
    assert {"1 x 1 convolutions", "depthwise convolutions", "other convolutions", "softmax"} <= names(found["kinds"])
    assert sum(line["share"] for line in found["kinds"]) == pytest.approx(1)
    assert "aten::_softmax" in names(found["operators"])
    assert len(profile_pass(lambda: model(x), rows=3)["operators"]) == 3


@pytest.mark.slow
@pytest.mark.skipif(not can_compile(), reason="no compiler")
def test_a_profile_names_the_kernels_of_a_compiled_model():
    compiled = torch.compile(lambda x: (2 * x).softmax(1))
    x = torch.randn(2, 8)
    with torch._inductor.config.patch({"cpp.enable_kernel_profile": False}):  # resets it afterwards
        record_compiled_kernels()
        compiled(x)
        found = profile_pass(lambda: compiled(x))
    assert "generated kernels" in names(found["kinds"])
    assert "softmax" not in names(found["kinds"])
    assert any("cpp_fused" in name and "softmax" in name for name in names(found["operators"]))


def names(lines):
    return {line["name"] for line in lines}


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"models": ()}, "one model and one form"),
        ({"runs": 0}, "runs must be 1 or more, got 0"),
        ({"batch": -1}, "batch must be 1 or more, got -1"),
        ({"threads": 0}, "threads must be 1 or more, got 0"),
        ({"sizes": (0,)}, "size must be 1 or more, got 0"),
        ({"latency_runs": -1}, "latency_runs must be 0 or more"),
        ({"sizes": (64, 96)}, "Only scaling accepts several sizes"),
        ({"kind": "speed"}, "kind must be one of inference, training, scaling, profile"),
        ({"device": "tpu"}, "tpu"),
        ({"kind": "training", "forms": ("fused",)}, "training supports only"),
        ({"models": ("test_resnet",), "forms": ("plain", "fused")}, "plain, fused are supported only for GLNets"),
    ],
)
def test_an_invalid_plan_raises_an_error_before_anything_is_built(options, words):
    with pytest.raises((ValueError, RuntimeError), match=words):
        Plan(**{"models": ("test_glnet",), **options}).check()
