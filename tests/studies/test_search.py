"""The hyperparameter search: trials, pruning, and continuing an interrupted study."""

import json
from pathlib import Path

import pytest

optuna = pytest.importorskip("optuna")

from optuna.trial import TrialState  # noqa: E402

from studies.search import FOLDER, Report, main, open_study, suggest  # noqa: E402
from tests.runs import write_config  # noqa: E402


def test_search_continues_an_interrupted_trial(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = write_config(
        tmp_path / "c.yaml", tmp_path / "unused", max_epochs=1, limit_train_batches=1, limit_val_batches=1
    )
    folder = tmp_path / "search"
    interrupted = open_study(folder, 0).ask()  # a process that was killed leaves its trial like this
    parameters = suggest(interrupted)
    interrupted.set_user_attr(FOLDER, str(folder / "trial-0000"))

    command = ["--folder", str(folder), "--config", str(config), "--model.schedule.warmup_epochs", "0"]
    main([*command, "--trials", "2"])
    best = json.loads(capsys.readouterr().out)
    study = open_study(folder, 0)
    assert [trial.state for trial in study.trials] == [TrialState.FAIL, TrialState.COMPLETE, TrialState.COMPLETE]
    assert best["score"] == max(trial.value for trial in study.trials[1:]) == study.best_value
    assert list(study.trials[1].params.values()) == list(parameters.values())
    assert study.trials[1].params != study.trials[2].params
    assert study.trials[1].intermediate_values == {0: study.trials[1].value}
    assert sorted(path.name for path in folder.glob("trial-*")) == ["trial-0000", "trial-0002"]
    assert (folder / "trial-0002" / "checkpoints" / "best.ckpt").is_file()
    assert not (tmp_path / "unused").exists()

    main([*command, "--trials", "2"])  # nothing is left to do
    assert json.loads(capsys.readouterr().out) == best


def test_bad_trials_are_pruned(tmp_path: Path) -> None:
    study = open_study(tmp_path, 0)
    for _ in range(4):
        trial = study.ask()
        for epoch in range(4):
            trial.report(0.9, epoch)
        study.tell(trial, 0.9)
    trial = study.ask()
    trial.report(0.1, 3)
    assert trial.should_prune()
    assert Report(trial).best is None
