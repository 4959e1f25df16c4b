"""Ablations: what they run, that they resume after a real kill, and what they refuse."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import yaml

from studies.ablation.__main__ import main
from studies.ablation.report import markdown, rows, write_report
from studies.ablation.speed import measure_speed
from studies.ablation.study import carry_out, plan, read_ablation, strangers, variants

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


def command(config: Path, out: Path) -> list[str]:
    return [sys.executable, "-m", "studies.ablation", str(config), "--out", str(out)]


def test_answers_that_mean_the_same_are_one_variant(tmp_path):
    config = read_ablation(written(tmp_path))
    found = variants(config)
    assert [variant.name for variant in found] == ["branches: local only", "branches: both", "clustering: k-means"]
    base = found[1]
    assert base.is_base
    assert base.places == (("branches", "both"), ("clustering", "soft"), ("slots", "4"))
    assert [run.seed for run in plan(config)] == [0, 0, 0, 1, 1, 1]
    assert len({run.key for run in plan(config)}) == 6


@pytest.mark.parametrize("path", SHIPPED, ids=lambda p: p.name)
def test_shipped_configurations_are_whole(path):
    config = read_ablation(path)
    assert sum(variant.is_base for variant in variants(config)) == 1


def test_killed_and_started_again_it_repeats_no_finished_run_and_ends_the_same(tmp_path, capsys):
    """One process is never disturbed; another is killed as soon as it has finished two of six runs."""
    config = written(tmp_path)
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    assert main([str(config), "--out", str(whole)]) == 0
    assert "Runs of this configuration: 6; done already: 0." in capsys.readouterr().out

    victim = subprocess.Popen(command(config, broken), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    until = time.monotonic() + 100
    while len(list((broken / "runs").glob("*.json"))) < 2 and time.monotonic() < until:
        time.sleep(0.01)
    victim.send_signal(signal.SIGKILL)
    victim.wait()
    before = {path: path.stat().st_mtime_ns for path in (broken / "runs").glob("*.json")}
    assert 2 <= len(before) < 6
    assert not (broken / "table.md").exists()

    again = subprocess.run(command(config, broken), capture_output=True, text=True, timeout=120)
    assert again.returncode == 0, again.stderr
    assert f"done already: {len(before)}." in again.stdout
    assert again.stdout.count(" s\n") == 6 - len(before)  # a line for each run that was trained
    assert all(path.stat().st_mtime_ns == changed for path, changed in before.items())
    assert scores(broken) == scores(whole)
    assert len(scores(broken)) == 6
    assert (broken / "table.md").read_text().count("| base |") == 3
    assert {path.name for path in broken.iterdir()} == {"runs", "table.md", "table.json", "ablation.png"}


@pytest.fixture
def finished(tmp_path):
    """A folder of all runs as if they had been trained, and the configuration of them."""
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


def test_finished_runs_are_taken_as_they_are(finished):
    config, runs = finished
    results = list(carry_out(config, runs, untouched, untouched))
    table = {(row.axis, row.answer): row for row in rows(config, results, SPEEDS)}
    assert table["branches", "local only"].scores == (0.5, 0.53)
    assert table["branches", "both"].scores == table["slots", "4"].scores == (0.51, 0.54)
    assert table["clustering", "k-means"].mean == pytest.approx(0.535)
    text = markdown(list(table.values()), "top1")
    assert "| branches | local only | 51.5 ± 2.1 | -1.0 ± 0.0 | 10 | 1,000 |" in text
    assert "|  | k-means | 53.5 ± 2.1 | +1.0 ± 0.0 | 3,000 | 1,000 |" in text
    assert "| slots | 4 | 52.5 ± 2.1 | base | 20 | 1,000 |" in text


def test_the_report_is_a_table_for_people_and_one_for_programs_and_a_plot(finished):
    config, runs = finished
    text = write_report(runs.parent, config, list(carry_out(config, runs, untouched, untouched)), SPEEDS)
    assert text == (runs.parent / "table.md").read_text()
    assert "2 seeds each" in text
    programs = json.loads((runs.parent / "table.json").read_text())
    assert [row["answer"] for row in programs["rows"]] == ["local only", "both", "soft", "k-means", "4"]
    assert (runs.parent / "ablation.png").read_bytes().startswith(b"\x89PNG")


def test_every_network_is_timed(tmp_path):
    config = read_ablation(written(tmp_path))
    speeds = measure_speed(config, rounds=1, batches=1)
    assert list(speeds) == [variant.name for variant in variants(config)]
    assert min(speeds.values()) > 0


def test_a_changed_configuration_is_noticed_and_keeps_what_still_holds(finished, tmp_path):
    _, runs = finished
    longer = read_ablation(written(tmp_path, recipe={"epochs": 2}))
    others = strangers(longer, runs)
    assert len(others) == 6
    assert ["recipe.epochs was 1, is 2 now"] in others.values()
    more_seeds = read_ablation(written(tmp_path, seeds=[0, 1, 2]))
    assert strangers(more_seeds, runs) == {}


def test_a_changed_configuration_is_said(finished, tmp_path, capsys):
    _, runs = finished
    config = written(tmp_path, axes={"branches": {"both": {}}}, seeds=[1], recipe={"epochs": 2})
    assert main([str(config), "--out", str(runs.parent)]) == 0
    said = capsys.readouterr().out
    assert "Runs of this configuration: 1; done already: 0." in said
    assert "The configuration has changed: finished runs of other settings" in said
    assert "recipe.epochs was 1, is 2 now" in said


def test_a_file_that_is_no_run_is_named(finished):
    config, runs = finished
    torn = next(runs.glob("*.json"))
    torn.write_text('{"settings": ')
    with pytest.raises(ValueError, match=rf"{torn.name} is no finished run .*delete it"):
        list(carry_out(config, runs, untouched, untouched))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"sedes": [1]}, "There is no key 'sedes'. Did you mean 'seeds'? It takes base, axes, seeds"),
        ({"recipe": {"epoch": 3}}, "There is no key 'epoch'. Did you mean 'recipe.epochs'?"),
        ({"recipe": {"epochs": 0}}, "epochs must be at least 1, got 0"),
        ({"seeds": []}, "seeds must name at least one, got []"),
        ({"seeds": [1, 1]}, "seeds must be different numbers from 0, got [1, 1]"),
        ({"train_count": 8}, "train_count must be at least 32, got 8"),
        ({"scenes": {"objects": [3, 1]}}, "objects must be two numbers, 1 <= fewest <= most <= 255, got (3, 1)"),
        ({"axes": {"a": {"b": {"num_slot": 4}}}}, "a: b: GLNet has no argument 'num_slot'. Did you mean 'num_slots'?"),
        ({"axes": {"a": {"b": {"clustering": "fuzzy"}}}}, "a: b: clustering must be 'soft', 'kmeans' or 'static'"),
        ({"axes": {"a": {"b": {"depths": [1]}}}}, "a: b: depths must be one value or 2 values"),
    ],
    ids=lambda value: None if isinstance(value, str) else "-".join(value),
)
def test_refused_configurations_are_told_in_a_sentence(tmp_path, changes, words):
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - the words are checked below
        read_ablation(written(tmp_path, **changes))
    assert words in str(caught.value)
    assert "ablation.yaml" in str(caught.value)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [((), "There is no configuration"), (("--threads", "0"), "--threads must be at least 1, got 0")],
)
def test_the_command_refuses_what_is_not_there(tmp_path, capsys, arguments, words):
    assert main([str(tmp_path / "absent.yaml"), *arguments]) == 2
    assert words in capsys.readouterr().err
