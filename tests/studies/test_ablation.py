"""Ablation studies: planned runs, resuming after SIGKILL, the report and invalid configurations."""

import json
import time
from pathlib import Path

import pytest
import torch
import yaml

from studies.ablation.__main__ import main
from studies.ablation.report import markdown, rows, write_report
from studies.ablation.speed import measure_speed
from studies.ablation.study import other_runs, plan, read_ablation, run_all, variants
from tests.processes import Command

SHIPPED = sorted((Path(__file__).parents[2] / "studies" / "ablation").glob("*.yaml"))
TINY = {
    "base": {"widths": [16, 16], "depths": [1, 1], "mixers": "glmix", "mlp_ratio": 1, "head_dim": 16, "num_slots": 4},
    "axes": {
        "branches": {"local only": {"slots": False}, "both": {}},
        "clustering": {"soft": {"clustering": "soft"}, "k-means": {"clustering": "kmeans"}},
        "slots": {4: {"num_slots": 4}},
    },
    "seeds": [0, 1],
    "recipe": {"epochs": 1},
    "scenes": {"size": 32, "objects": [1, 1]},
    "train_count": 64,
    "val_count": 32,
    "batch_size": 32,
}


@pytest.fixture(autouse=True)
def _one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


SPEEDS = {"branches: local only": 10.0, "branches: both": 20.0, "clustering: k-means": 3000.0}


def written(folder: Path, **changes) -> Path:
    path = folder / "ablation.yaml"
    path.write_text(yaml.safe_dump({**TINY, **changes}, sort_keys=False))
    return path


def scores(folder: Path) -> dict[str, float]:
    return {path.name: json.loads(path.read_text())["result"]["score"] for path in (folder / "runs").glob("*.json")}


def start(config: Path, out: Path) -> Command:
    words = [str(config), "--out", str(out)]
    return Command(code=f"from studies.ablation.__main__ import main\nraise SystemExit(main({words!r}))")


def test_answers_with_the_same_arguments_are_one_variant(tmp_path):
    config = read_ablation(written(tmp_path))
    found = variants(config)
    assert [variant.name for variant in found] == ["branches: local only", "branches: both", "clustering: k-means"]
    base = found[1]
    assert base.is_base
    assert base.entries == (("branches", "both"), ("clustering", "soft"), ("slots", "4"))
    assert [run.seed for run in plan(config)] == [0, 0, 0, 1, 1, 1]
    assert len({run.key for run in plan(config)}) == 6


@pytest.mark.parametrize("path", SHIPPED, ids=lambda p: p.name)
def test_shipped_configurations_are_valid(path):
    config = read_ablation(path)
    assert sum(variant.is_base for variant in variants(config)) == 1


def test_a_killed_study_resumes_without_repeating_runs_and_gives_the_same_scores(tmp_path, capsys):
    """One process runs undisturbed; another one is killed after it has finished two of six runs."""
    config = written(tmp_path)
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    assert main([str(config), "--out", str(whole)]) == 0
    assert "Runs in this configuration: 6, finished: 0." in capsys.readouterr().out

    victim = start(config, broken)
    while victim.poll() is None and len(list((broken / "runs").glob("*.json"))) < 2:
        time.sleep(0.01)
    victim.kill()
    victim.communicate()
    before = {path: path.stat().st_mtime_ns for path in (broken / "runs").glob("*.json")}
    assert 2 <= len(before) < 6
    assert not (broken / "table.md").exists()

    again = start(config, broken)
    output, errors = again.communicate()
    assert again.returncode == 0, errors
    assert f"finished: {len(before)}." in output
    assert output.count(" s\n") == 6 - len(before)  # one line per trained run
    assert all(path.stat().st_mtime_ns == changed for path, changed in before.items())
    assert scores(broken) == scores(whole)
    assert len(scores(broken)) == 6
    assert (broken / "table.md").read_text().count("| base |") == 3
    assert {path.name for path in broken.iterdir()} == {"runs", "table.md", "table.json", "ablation.png"}


@pytest.fixture
def finished(tmp_path):
    """A configuration, and a folder with a result file for each of its runs."""
    config = read_ablation(written(tmp_path))
    runs = tmp_path / "out" / "runs"
    runs.mkdir(parents=True)
    for k, run in enumerate(plan(config)):
        result = {"metric": "top1", "score": 0.5 + k / 100, "parameters": 1000}
        saved = {"name": run.variant.name, "settings": run.settings, "result": result}
        (runs / f"{run.key}.json").write_text(json.dumps(saved))
    return config, runs


def untouched(*args):
    pytest.fail("A finished run was trained again.")


def test_finished_runs_are_not_trained_again(finished):
    config, runs = finished
    results = list(run_all(config, runs, untouched, untouched))
    table = {(row.axis, row.answer): row for row in rows(config, results, SPEEDS)}
    assert table["branches", "local only"].scores == (0.5, 0.53)
    assert table["branches", "both"].scores == table["slots", "4"].scores == (0.51, 0.54)
    assert table["clustering", "k-means"].mean == pytest.approx(0.535)
    text = markdown(list(table.values()), "top1")
    assert "| branches | local only | 51.5 ± 2.1 | -1.0 ± 0.0 | 10 | 1,000 |" in text
    assert "|  | k-means | 53.5 ± 2.1 | +1.0 ± 0.0 | 3,000 | 1,000 |" in text
    assert "| slots | 4 | 52.5 ± 2.1 | base | 20 | 1,000 |" in text


def test_the_report_is_markdown_json_and_a_plot(finished):
    config, runs = finished
    text = write_report(runs.parent, config, list(run_all(config, runs, untouched, untouched)), SPEEDS)
    assert text == (runs.parent / "table.md").read_text()
    assert "2 seeds each" in text
    programs = json.loads((runs.parent / "table.json").read_text())
    assert [row["answer"] for row in programs["rows"]] == ["local only", "both", "soft", "k-means", "4"]
    assert (runs.parent / "ablation.png").read_bytes().startswith(b"\x89PNG")


def test_the_speed_of_every_variant_is_measured(tmp_path):
    config = read_ablation(written(tmp_path))
    speeds = measure_speed(config, rounds=1, batches=1)
    assert list(speeds) == [variant.name for variant in variants(config)]
    assert min(speeds.values()) > 0


def test_runs_with_other_settings_are_listed_with_their_differences(finished, tmp_path):
    _, runs = finished
    longer = read_ablation(written(tmp_path, recipe={"epochs": 2}))
    others = other_runs(longer, runs)
    assert len(others) == 6
    assert ["recipe.epochs was 1, is 2 now"] in others.values()
    more_seeds = read_ablation(written(tmp_path, seeds=[0, 1, 2]))
    assert other_runs(more_seeds, runs) == {}


def test_a_changed_configuration_is_reported(finished, tmp_path, capsys):
    _, runs = finished
    config = written(tmp_path, axes={"branches": {"both": {}}}, seeds=[1], recipe={"epochs": 2})
    assert main([str(config), "--out", str(runs.parent)]) == 0
    output = capsys.readouterr().out
    assert "Runs in this configuration: 1, finished: 0." in output
    assert "The configuration has changed" in output
    assert "recipe.epochs was 1, is 2 now" in output


def test_an_invalid_result_file_is_named(finished):
    config, runs = finished
    torn = next(runs.glob("*.json"))
    torn.write_text('{"settings": ')
    with pytest.raises(ValueError, match=rf"{torn.name}.*delete"):
        list(run_all(config, runs, untouched, untouched))


@pytest.mark.parametrize(
    ("changes", "facts"),
    [
        ({"sedes": [1]}, ["'sedes'", "'seeds'", "base, axes, seeds"]),
        ({"recipe": {"epoch": 3}}, ["'epoch'", "'recipe.epochs'"]),
        ({"recipe": {"epochs": 0}}, ["epochs", "at least 1", "got 0"]),
        ({"seeds": []}, ["seeds", "got []"]),
        ({"seeds": [1, 1]}, ["seeds", "got [1, 1]"]),
        ({"train_count": 8}, ["train_count", "at least 32", "got 8"]),
        ({"scenes": {"objects": [3, 1]}}, ["objects", "255", "(3, 1)"]),
        ({"axes": {"a": {"b": {"num_slot": 4}}}}, ["a: b", "'num_slot'", "'num_slots'"]),
        ({"axes": {"a": {"b": {"clustering": "fuzzy"}}}}, ["a: b", "clustering", "'soft'", "'kmeans'", "'static'"]),
        ({"axes": {"a": {"b": {"depths": [1]}}}}, ["a: b", "depths", "2"]),
    ],
    ids=lambda value: "" if isinstance(value, list) else "-".join(value),
)
def test_an_invalid_configuration_is_an_error_that_names_the_value(tmp_path, changes, facts):
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - the message is checked below
        read_ablation(written(tmp_path, **changes))
    assert [fact for fact in [*facts, "ablation.yaml"] if fact not in str(caught.value)] == []


@pytest.mark.parametrize(
    ("arguments", "facts"),
    [((), ["absent.yaml"]), (("--threads", "0"), ["--threads", "at least 1", "got 0"])],
)
def test_the_command_refuses_a_missing_file_and_zero_threads(tmp_path, capsys, arguments, facts):
    assert main([str(tmp_path / "absent.yaml"), *arguments]) == 2
    error = capsys.readouterr().err
    assert [fact for fact in facts if fact not in error] == []
