"""Ablation studies on scenes: train variants of a network with several seeds each, and resume an interrupted study.

A run is one training. Its key is a hash of all settings that determine its result, and its result is one JSON file
with that name. If another configuration needs a run with the same settings, it reads the file instead of training.
"""

import dataclasses
import hashlib
import inspect
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jsonargparse import ArgumentError, ArgumentParser

from glmix.compat import option_names
from glmix.data.classification.datamodule import ONE_OBJECT, ScenesData
from glmix.data.scenes import SceneConfig
from glmix.errors import InputError
from glmix.files import atomic_write
from glmix.models import GLNet
from glmix.tasks import Classification
from glmix.training.config_errors import explain
from glmix.training.short_training import Recipe, train_on_scenes
from glmix.training.weights import nearest

__all__ = ["Ablation", "Run", "Variant", "finished_runs", "other_runs", "plan", "read_ablation", "run_all", "variants"]

MODEL = "glnet_4g"  # its arguments are the defaults of GLNet, so `base` and the variants define all differences
FORMAT = 1  # version of the result files; a new version invalidates finished runs


@dataclass(frozen=True)
class Ablation:
    """Configuration of an ablation study.

    Args:
        base: arguments of `GLNet` that all variants share.
        axes: {axis: {answer: arguments of `GLNet` that replace those of the base}}; `{}` is the base itself.
        seeds: each variant is trained once per seed.
        recipe: training settings of every variant.
        scenes: configuration of the images.
        train_count: number of training scenes.
        val_count: number of validation scenes.
        batch_size: scenes per step.
    """

    base: dict[str, Any]
    axes: dict[str, dict[str, dict[str, Any]]]
    seeds: list[int]
    recipe: Recipe
    scenes: SceneConfig = ONE_OBJECT
    train_count: int = 3000
    val_count: int = 1000
    batch_size: int = 64

    def __post_init__(self) -> None:
        for name in ("axes", "seeds"):
            if not getattr(self, name):
                raise InputError(f"{name} must not be empty, got {getattr(self, name)}.")
        if len(set(self.seeds)) < len(self.seeds) or min(self.seeds) < 0:
            raise InputError(f"seeds must be distinct integers of at least 0, got {self.seeds}.")
        for name, at_least in (("train_count", self.batch_size), ("val_count", 1), ("batch_size", 1)):
            if getattr(self, name) < at_least:
                raise InputError(f"{name} must be at least {at_least}, got {getattr(self, name)}.")
        variants(self)  # raises an error if a network cannot be built

    def data(self, seed: int) -> ScenesData:
        """Return the data of all runs with a seed. The seed sets the order and the augmentation, not the scenes."""
        return ScenesData(
            scenes=self.scenes,
            train_count=self.train_count,
            val_count=self.val_count,
            batch_size=self.batch_size,
            seed=seed,
        )


@dataclass(frozen=True)
class Variant:
    """A network of the study.

    Args:
        args: all arguments of `GLNet`.
        entries: (axis, answer) pairs that result in this network; several if they have the same arguments.
        is_base: whether it is the base.
    """

    args: dict[str, Any]
    entries: tuple[tuple[str, str], ...]
    is_base: bool

    @property
    def name(self) -> str:
        return ": ".join(self.entries[0])


@dataclass(frozen=True)
class Run:
    """One training, defined by all settings that determine its result."""

    variant: Variant
    seed: int
    settings: dict[str, Any]

    @property
    def key(self) -> str:
        return hashlib.sha256(json.dumps(self.settings, sort_keys=True).encode()).hexdigest()[:12]


def read_ablation(path: Path) -> Ablation:
    """Read a configuration from a YAML file.

    Raises:
        FileNotFoundError: the file does not exist.
        InputError: the configuration is invalid.
    """
    if not path.is_file():
        raise FileNotFoundError(f"The configuration file {path} does not exist.")
    names = [field.name for field in dataclasses.fields(Ablation)]
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(Ablation, as_group=False)
    try:
        found = parser.parse_path(str(path)).as_dict()
        found |= {"recipe": Recipe(**found["recipe"]), "scenes": SceneConfig(**found["scenes"])}
        return Ablation(**{name: found[name] for name in names})
    except ArgumentError as error:
        known = [name for name in option_names(parser) if name not in ("help", "print_config")]
        reason = explain(str(error), known)
        raise InputError(f"{path}: {reason} The file takes the keys {', '.join(names)}.") from error
    except ValueError as error:
        raise InputError(f"{path}: {error}") from error


def variants(config: Ablation) -> list[Variant]:
    """Return the distinct networks of all axes. Answers with the same arguments are one variant."""
    parameters = inspect.signature(GLNet).parameters.values()
    defaults = {p.name: p.default for p in parameters if p.name not in ("num_classes", "device", "dtype")}
    base = _as_json({**defaults, **config.base})
    found: dict[str, Variant] = {}
    for axis, answers in config.axes.items():
        for answer, changes in answers.items():
            for key in (*config.base, *changes):
                if key not in defaults:
                    raise InputError(
                        f"{axis}: {answer}: GLNet has no argument {key!r}.{nearest(key, defaults)} "
                        f"It takes {', '.join(defaults)}."
                    )
            args = _as_json({**defaults, **config.base, **changes})
            entry = (str(axis), str(answer))
            key = json.dumps(args, sort_keys=True)
            if key in found:
                found[key] = dataclasses.replace(found[key], entries=(*found[key].entries, entry))
                continue
            try:
                GLNet(**args, num_classes=1, device="meta")
            except (TypeError, ValueError) as error:
                raise InputError(f"{axis}: {answer}: {error}") from error
            found[key] = Variant(args, (entry,), args == base)
    return list(found.values())


def plan(config: Ablation) -> list[Run]:
    """Return all runs, ordered by seed, so that an unfinished study already covers every variant."""
    shared = {
        "format": FORMAT,
        "recipe": dataclasses.asdict(config.recipe),
        "scenes": dataclasses.asdict(config.scenes),
        "train_count": config.train_count,
        "val_count": config.val_count,
        "batch_size": config.batch_size,
    }
    return [
        Run(variant, seed, _as_json({**shared, "seed": seed, "model": variant.args}))
        for seed in config.seeds
        for variant in variants(config)
    ]


def run_all(
    config: Ablation, folder: Path, started: Callable[[Run], None], finished: Callable[[Run, dict[str, Any]], None]
) -> Iterator[dict[str, Any]]:
    """Yield the result of every planned run in order. Train the runs that have no file in `folder` yet.

    Args:
        config: the study.
        folder: folder of the result files.
        started: callback before a run is trained.
        finished: callback after a run is trained and its file is written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    done = finished_runs(config, folder)
    data: ScenesData | None = None
    for run in plan(config):
        if run.key in done:
            yield done[run.key]
            continue
        if data is None or data.seed != run.seed:
            data = config.data(run.seed)
        started(run)
        result = _train_run(run, config, data)
        _write_run(folder / f"{run.key}.json", {"name": run.variant.name, "settings": run.settings, "result": result})
        finished(run, result)
        yield result


def finished_runs(config: Ablation, folder: Path) -> dict[str, dict[str, Any]]:
    """Return {key: result} of the planned runs that have a file in `folder`."""
    saved = _read_runs(folder)
    return {run.key: saved[run.key]["result"] for run in plan(config) if run.key in saved}


def other_runs(config: Ablation, folder: Path) -> dict[str, list[str]]:
    """Return the finished runs in `folder` that are not planned, as {file: ["epochs was 3, is 4 now", ...]}.

    The differences are those to the most similar planned run.
    """
    runs = plan(config)
    keys = {run.key for run in runs}
    found = {}
    for key, saved in _read_runs(folder).items():
        if key in keys:
            continue
        differences = [_differences(saved["settings"], run.settings) for run in runs]
        found[f"{key}.json"] = min(differences, key=len)
    return found


def _differences(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    """List the settings that differ, one string per setting."""
    lines = []
    for key in sorted({*old, *new}):
        before, after = old.get(key), new.get(key)
        if isinstance(before, dict) and isinstance(after, dict):
            lines += [f"{key}.{line}" for line in _differences(before, after)]
        elif before != after:
            lines.append(f"{key} was {json.dumps(before)}, is {json.dumps(after)} now")
    return lines


def _train_run(run: Run, config: Ablation, data: ScenesData) -> dict[str, Any]:
    task = Classification(
        model=MODEL,
        model_args=run.variant.args,
        multi_label=data.multi_label,
        **config.recipe.task_arguments(run.seed),
    )
    start = time.perf_counter()
    try:
        last = train_on_scenes(task, data, config.recipe, every_epoch=False)[-1]
    except ValueError as error:
        raise InputError(f"{run.variant.name}, seed {run.seed}: {error}") from error
    return {
        "metric": task.score_name,
        "score": last.score,
        "train_loss": last.train_loss,
        "val_loss": last.val_loss,
        "parameters": sum(p.numel() for p in task.model.parameters()),
        "seconds": time.perf_counter() - start,
    }


def _read_runs(folder: Path) -> dict[str, dict[str, Any]]:
    """Return {key: contents} of the result files."""
    found = {}
    for path in sorted(folder.glob("*.json")) if folder.is_dir() else []:
        try:
            saved = json.loads(path.read_text())
            saved["result"]["score"], saved["settings"]["seed"]
        except (ValueError, KeyError, TypeError) as error:
            raise InputError(
                f"{path} is not a valid result file ({error!r}): delete it to train this run again."
            ) from error
        found[path.stem] = saved
    return found


def _write_run(path: Path, contents: dict[str, Any]) -> None:
    with atomic_write(path, flush=True) as part:
        part.write_text(json.dumps(contents, indent=2))


def _as_json(value: Any) -> Any:
    """Return the value as it is after writing and reading JSON: tuples become lists."""
    return json.loads(json.dumps(value))
