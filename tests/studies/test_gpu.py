"""The GPU suite runs with tiny models on the CPU, and says what is missing without a GPU."""

import json
import time
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import load_file

from glmix.errors import InputError
from studies.gpu import distill
from studies.gpu.__main__ import PARTS, Child, main, run_part
from studies.gpu.photographs import Crops, find_photographs
from studies.gpu.report import goals, markdown
from studies.gpu.settings import Settings

SMOKE = ["--device", "cpu", "--smoke"]
FAST = ["agreement", "autocast", "maps", "pipeline", "profiles"]
SLOW = ["compiled", "resume", "distributed", "detection", "inference", "training", "choices", "scaling"]


def run(folder: Path, parts: list[str]) -> dict:
    """Run parts of the suite, and return the report after checking that all of them passed."""
    code = main([*parts, *SMOKE, "-o", str(folder)])
    report = json.loads((folder / "gpu.json").read_text())
    assert list(report["parts"]) == [name for name in PARTS if name in parts]
    assert {name: part.get("reason") for name, part in report["parts"].items()} == dict.fromkeys(report["parts"])
    assert code == 0
    assert (folder / "gpu.md").read_text() == markdown(report)
    return report


def test_every_part_is_tested() -> None:
    assert sorted(FAST + SLOW) == sorted(PARTS)


def test_checks_and_profiles_run_on_the_cpu(tmp_path: Path) -> None:
    parts = run(tmp_path, FAST)["parts"]
    checks = [row for name, part in parts.items() if PARTS[name].check for row in part["result"]]
    assert len(checks) > 12
    assert all(row["passed"] is True for row in checks)
    shares = [row["share"] for row in parts["profiles"]["result"] if row["pass"] == "training"]
    assert 0.5 < sum(shares) <= 1 + 1e-9


@pytest.mark.slow
def test_the_other_parts_run_on_the_cpu(tmp_path: Path) -> None:
    parts = run(tmp_path, SLOW)["parts"]
    assert {parts[name]["result"]["kind"] for name in ("inference", "training", "scaling")} == {
        "inference",
        "training",
        "scaling",
    }
    assert {row["form"] for row in parts["training"]["result"]["rows"]} == {"plain+bf16", "optimized+bf16"}
    pairs = [(row["choice"], row["way"]) for row in parts["choices"]["result"]]
    assert ("pooled seeds", "two products") in pairs
    assert ("AdamW", "fused") in pairs
    assert parts["resume"]["result"][0]["tensors that differ"] == 0
    assert all((tmp_path / f"gpu-{name}.png").stat().st_size > 1000 for name in ("inference", "training", "scaling"))


def test_reports_of_several_runs_are_merged(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("maps", "pipeline"):
        run(tmp_path / name, [name])
    files = [str(tmp_path / name / "gpu.json") for name in ("maps", "pipeline")]
    assert main(["--render", *files, "-o", str(tmp_path)]) == 0
    assert list(json.loads((tmp_path / "gpu.json").read_text())["parts"]) == ["maps", "pipeline"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "no GPU"),
        (["--device", "cpu"], "--smoke"),
        (["latency"], "'latency'; the parts are agreement"),
        (["--device", "tpu"], "cuda or cpu"),
    ],
)
@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_mistakes_of_the_user_end_with_one_sentence(
    arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 2
    message = capsys.readouterr().err
    assert words in message
    assert len(message.splitlines()) == 1


def test_a_failing_part_and_a_missing_package_are_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = Settings("cpu", smoke=True)
    monkeypatch.setattr("glmix.slots.slot_maps", None)
    outcome = run_part("maps", settings)
    assert outcome["status"] == "failed"
    assert "TypeError" in outcome["reason"]
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert run_part("resume", settings)["reason"] == "needs lightning, torchmetrics"


def test_goals_are_ratios_of_the_tables() -> None:
    def row(model: str, form: str, rate: float, memory: float) -> dict:
        return {
            "model": model,
            "form": form,
            "error": None,
            "images_per_second": rate,
            "peak_memory_mib": memory,
        }

    compiled = "optimized+bf16+compiled"
    rows = [row("glnet_stl", compiled, 30.0, 6.0), row("glnet_stl", "plain+bf16", 10.0, 10.0)]
    found = goals({"parts": {"training": {"result": {"rows": rows}}}})
    assert [entry["ratio"] for entry in found] == [3.0, 0.6]


@pytest.mark.slow
def test_a_part_in_its_own_process_returns_its_result_or_the_reason() -> None:
    finished = Child("maps", Settings("cpu", smoke=True))
    assert finished.outcome(time.monotonic() + 120)["status"] == "passed"
    killed = Child("resume", Settings("cpu", smoke=True))
    outcome = killed.outcome(time.monotonic() + 0.1)
    assert (outcome["status"], outcome["reason"]) == ("failed", "it took too long")
    assert not killed.process.is_alive()


def test_a_distillation_trains_and_writes_half_precision_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    generator = np.random.default_rng(0)
    for name, channels in (("photographs", 3), ("cut_outs", 4)):
        (tmp_path / name).mkdir()
        for index in range(3):
            pixels = generator.integers(0, 255, (24, 40, channels), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / name / f"{index}.png")
    monkeypatch.setattr(distill, "load_teacher", lambda wheel: timm.create_model("test_convnext", num_classes=7))
    command = ["teacher.whl", str(tmp_path / "photographs"), "--cut-outs", str(tmp_path / "cut_outs")]
    command += ["--model", "test_glnet", "--seconds", "1", "--batch", "4", "--size", "32", "--stored-size", "32"]
    distill.main([*command, "--device", "cpu", "-o", str(tmp_path)])
    report = json.loads((tmp_path / "test_glnet.json").read_text())
    assert report["photographs"] == {"trained": 2, "held_out": 1}
    assert report["steps"] >= 1
    assert json.loads(capsys.readouterr().out) == report["scores"]
    weights = load_file(tmp_path / "test_glnet.safetensors")
    model = timm.create_model("test_glnet", num_classes=7)
    assert weights.keys() == model.state_dict().keys()
    assert weights["head.fc.weight"].dtype == torch.float16


def test_crops_are_images_and_depend_on_the_seed(tmp_path: Path) -> None:
    photographs = torch.rand(3, 3, 40, 40), torch.tensor([1.0, 2.0, 0.5])
    cut_outs = torch.rand(2, 4, 20, 20), torch.tensor([1.0, 0.5])
    first, second, other = (Crops(photographs, cut_outs, 32, seed).batch(8) for seed in (0, 0, 1))
    assert first.shape == (8, 3, 32, 32)
    assert 0 <= float(first.min()) < float(first.max()) <= 1
    assert torch.equal(first, second)
    assert not torch.equal(first, other)
    with pytest.raises(InputError, match="contains no"):
        find_photographs(tmp_path)
