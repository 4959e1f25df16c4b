"""Search hyperparameters of `glmix fit` with Optuna.

    python -m studies.search --trials 20 --config classification/finetune/folder --model.checkpoint best.ckpt \\
        --data.source.root FOLDER

All other options are passed to `glmix fit`. Trials with a low validation score are stopped after
some epochs. Repeat the command after an interruption: the study is in FOLDER/study.db, and the trial that was running
continues from its last checkpoint. One process can work on a study at a time. Edit `suggest` to search other options.
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning.pytorch as L
import optuna
from optuna.trial import TrialState

from glmix.tasks.cli import run
from glmix.training import NonFiniteLossError, Task

FOLDER = "folder"  # user attribute of a trial: its run folder


def suggest(trial: optuna.Trial) -> dict[str, Any]:
    """Return the options of `glmix fit` for a trial."""
    return {
        "model.optimizer.lr": trial.suggest_float("lr", 1e-5, 1e-2, log=True),
        "model.optimizer.weight_decay": trial.suggest_float("weight_decay", 1e-3, 0.3, log=True),
        "model.model_args.drop_path_rate": trial.suggest_float("drop_path_rate", 0.0, 0.3, step=0.1),
    }


class Report(L.Callback):
    """Callback that reports the best validation score to Optuna after each epoch, and stops pruned trials."""

    def __init__(self, trial: optuna.Trial) -> None:
        self.trial = trial
        self.best: float | None = None

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.sanity_checking or not isinstance(pl_module, Task) or pl_module.best is None:
            return
        self.trial.report(pl_module.best, trainer.current_epoch)
        if self.trial.should_prune():
            raise optuna.TrialPruned

    def teardown(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        if isinstance(pl_module, Task):
            self.best = pl_module.best  # also of a run that was finished before


def open_study(folder: Path, seed: int) -> optuna.Study:
    """Open or create the study in a folder. Trials that were interrupted are queued with the same parameters."""
    folder.mkdir(parents=True, exist_ok=True)
    study = optuna.create_study(
        storage=f"sqlite:///{folder / 'study.db'}",
        study_name="search",
        load_if_exists=True,
        direction="maximize",
        pruner=optuna.pruners.MedianPruner(n_startup_trials=4, n_warmup_steps=2),
    )
    # a resumed search must not draw the same parameters again
    study.sampler = optuna.samplers.TPESampler(seed=seed + len(study.trials))
    for trial in study.get_trials(states=(TrialState.RUNNING,)):
        run_folder = trial.user_attrs.get(FOLDER)
        if run_folder is not None:
            study.enqueue_trial(trial.params, user_attrs={FOLDER: run_folder})
        study.tell(trial.number, state=TrialState.FAIL)
    return study


def run_trial(trial: optuna.Trial, folder: Path, arguments: Sequence[str]) -> float | None:
    """Train with the options of a trial; return its best validation score, or None if the loss was not finite."""
    root = trial.user_attrs.get(FOLDER)
    if root is None:
        root = str(folder / f"trial-{trial.number:04d}")
        trial.set_user_attr(FOLDER, root)
    options = {**suggest(trial), "trainer.default_root_dir": root}
    report = Report(trial)
    argv = ["fit", *arguments, *(part for name, value in options.items() for part in (f"--{name}", str(value)))]
    try:
        run(argv, callbacks=[report])
    except NonFiniteLossError:
        return None
    return report.best


def main(argv: Sequence[str] | None = None) -> None:
    """Run the search and print the best options."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=20, help="number of trials, with those of earlier starts")
    parser.add_argument("--folder", type=Path, default=Path("out/search"), help="folder of the study and its runs")
    parser.add_argument("--seed", type=int, default=0, help="seed of the search")
    args, arguments = parser.parse_known_args(argv)
    study = open_study(args.folder, args.seed)
    ended = (TrialState.COMPLETE, TrialState.PRUNED)
    while len(study.get_trials(deepcopy=False, states=ended)) < args.trials:
        trial = study.ask()
        try:
            score = run_trial(trial, args.folder, arguments)
        except optuna.TrialPruned:
            study.tell(trial, state=TrialState.PRUNED)
            continue
        # a trial without a score counts as pruned, so that the search ends
        study.tell(trial, score) if score is not None else study.tell(trial, state=TrialState.PRUNED)
    best = study.best_trial
    print(json.dumps({"score": best.value, "folder": best.user_attrs[FOLDER], "options": best.params}, indent=1))


if __name__ == "__main__":
    main()
