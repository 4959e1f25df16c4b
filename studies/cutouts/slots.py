"""Slots of the best classifier of the study as segments and as objects, compared with controls by `glmix slots`."""

import json
from pathlib import Path
from typing import Any

import timm
import torch

from glmix.errors import InputError
from glmix.models import GLNet, save_model
from glmix_cli import main
from studies.cutouts.classify import METHODS, MODEL, network_file

__all__ = ["best_run", "evaluate_slots"]

COUNT = 100  # test images


def best_run(results: Path) -> dict[str, Any]:
    """Return the result of the classifier whose linear probe is best on the validation split.

    Raises:
        InputError: if no classifier is trained yet.
    """
    runs = [json.loads(file.read_text()) for file in sorted((results / "classify").glob("*-seed*.json"))]
    trained = [run for run in runs if run["method"] in METHODS and "final" in run]
    if not trained:
        raise InputError(f"There is no classifier in {results}: run `python -m studies.cutouts classify` first.")
    best: dict[str, Any] = max(trained, key=lambda run: run["final"]["probe_val"])
    return best


def evaluate_slots(root: Path, results: Path, size: int) -> None:
    """Run `glmix slots score` and `glmix slots discover` on the best classifier, unless their results exist.

    Args:
        root: folder of the data set.
        results: folder of the results; those of the commands are in its folder `slots`.
        size: side of the images in pixels.
    """
    out = results / "slots"
    folder = out / "model"
    if not (folder / "config.json").is_file():
        best = best_run(results)
        network = timm.create_model(MODEL, num_classes=len(list((root / "classification" / "train").iterdir())))
        assert isinstance(network, GLNet)
        network.load_state_dict(torch.load(network_file(results, best["method"], best["seed"]), weights_only=True))
        network.pretrained_cfg["label_names"] = sorted(
            path.name for path in (root / "classification" / "train").iterdir()
        )
        save_model(network, folder)
    for what, name in (("score", "scores"), ("discover", "discovery")):
        if (out / f"{name}.json").is_file():
            continue
        command = ["slots", what, "--model", f"local-dir:{folder}", "--data", str(root / "voc"), "--layout", "voc"]
        options = ["--split", "test", "--size", str(size), "--count", str(COUNT), "--out", str(out), "--overwrite"]
        if main([*command, *options]):
            raise InputError(f"`glmix {' '.join(command + options)}` failed.")
