"""Tests of `glmix bench`."""

import json
import sys

import pytest

from tests.processes import bench_worker


@pytest.fixture
def command(capsys, tmp_path, monkeypatch):
    """Run the command in this process in an empty folder: (exit code, stdout, stderr)."""
    from glmix_cli import main

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("glmix.bench.process._start", bench_worker)

    def run(*arguments):
        words = ["bench", *map(str, arguments)]
        monkeypatch.setattr(sys, "argv", ["glmix", *words])
        try:
            code = main(words)
        except SystemExit as exit_:  # argparse ends the process
            code = exit_.code
        told = capsys.readouterr()
        return code, told.out, told.err

    return run


def test_scaling_writes_files_that_can_be_rendered_again(command, tmp_path):
    pytest.importorskip("matplotlib")
    arguments = ["--scaling", 64, 96, "--stages", "--runs", 2, "--threads", 1, "-o", "out/bench"]
    code, report, errors = command("test_glnet", *arguments)
    assert code == 0, errors
    folder = tmp_path / "out" / "bench"
    assert sorted(file.name for file in folder.iterdir()) == ["bench.json", "bench.md", "bench.png"]
    told = json.loads((folder / "bench.json").read_text())
    assert told["command"] == "glmix bench test_glnet --scaling 64 96 --stages --runs 2 --threads 1 -o out/bench"
    assert told["machine"]["threads"] == 1
    assert {"glmix", "torch", "timm"} <= set(told["versions"])
    assert [row["height"] for row in told["rows"]] == [64, 96]
    for row in told["rows"]:
        assert row["seconds_per_megapixel"] == pytest.approx(row["seconds"] / row["height"] ** 2 * 1e6)
        assert list(row["stage_seconds"]) == ["stem", "stage 0", "stage 1", "stage 2", "stage 3"]
        assert min(row["stage_seconds"].values()) > 0
    page = (folder / "bench.md").read_text()
    assert report.strip() in page
    assert told["command"] in page

    code, printed, complaint = command("test_glnet", *arguments)
    assert code == 2
    assert "out/bench/bench.md already exists" in complaint
    code, printed, _ = command("--render", folder / "bench.json")
    assert code == 0
    assert printed.strip() == report.strip()
    (folder / "bench.png").unlink()
    assert command("--render", folder / "bench.json", "-o", folder, "--overwrite")[0] == 0
    assert (folder / "bench.md").read_text() == page
    assert (folder / "bench.png").stat().st_size > 10_000


def test_training_is_measured_and_a_failure_does_not_affect_the_others(command):
    code, printed, _ = command(
        "test_glnet(num_classes=3)", "test_resnet(num_classes=0)", "--train", "--forms", "eager", "--batch", 2,
        "--size", 64, "--runs", 2, "--threads", 1, "--json",
    )  # fmt: skip
    assert code == 1
    good, bad = json.loads(printed)["rows"]
    assert good["error"] is None
    assert good["peak_memory_mib"] > 0
    assert bad["error"]
    assert bad["runs"] == []


@pytest.mark.slow
def test_a_profile_names_operators(command):
    code, printed, _ = command("test_glnet", "--profile", "--size", 64, "--batch", 1)
    assert code == 0
    assert "aten::mkldnn_convolution" in printed or "aten::convolution" in printed


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["test_glnett"], "'test_glnett' is not a registered model of timm; did you mean test_glnet"),
        (["test_glnet", "--forms", "fast"], "Unknown word 'fast' in the form 'fast'; the words are eager, plain"),
        (["test_glnet", "--forms", "int8"], "int8 needs onnxruntime or openvino"),
        (["test_glnet", "--train", "--forms", "fused"], "training supports only eager, plain"),
        (["test_resnet", "--forms", "fused"], "fused are supported only for GLNets, but test_resnet are not"),
        (["test_glnet", "--stages"], "--stages needs --scaling"),
        (["test_glnet", "--scaling", "64", "--size", "64"], "cannot be combined with --size"),
        (["test_glnet", "--profile", "-o", "out"], "--profile prints tables"),
        (["test_glnet", "--train", "--scaling"], "not allowed with argument"),
        (["test_glnet", "--runs", "0"], "runs must be 1 or more"),
        (["test_glnet", "--render", "bench.json"], "--render measures nothing"),
        (["--render", "bench.json"], "No such file"),
    ],
)
def test_invalid_arguments_are_reported(arguments, words, command, tmp_path):
    code, _, complaint = command(*arguments)
    assert code == 2
    assert words in complaint
    assert list(tmp_path.iterdir()) == []


def test_an_invalid_result_file_is_reported(command, tmp_path):
    (tmp_path / "a.json").write_text("{}")
    (tmp_path / "b.json").write_bytes(b"\xff\x00")
    for name in ("a.json", "b.json"):
        code, _, complaint = command("--render", name)
        assert code == 2
        assert f"{name} is not a bench.json" in complaint


def test_an_unwritable_folder_is_reported_before_anything_is_measured(command, tmp_path):
    (tmp_path / "out").write_text("a file")
    code, _, complaint = command("test_glnet", "-o", "out")
    assert code == 2
    assert "out" in complaint
    assert (tmp_path / "out").read_text() == "a file"


def test_a_missing_matplotlib_is_reported_with_the_install_command(command, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    code, _, complaint = command("test_glnet", "-o", "out")
    assert code == 2
    assert "pip install 'glmix[slots]'" in complaint
