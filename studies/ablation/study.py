"""Ablations on scenes: variants of one network, several seeds each, in runs that resume where they stopped.

A run is one training, known by everything that its result depends on. A finished run is one file; whoever asks for
the same settings again, in whatever configuration, is given that file instead of another training.
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

from glmix.data.classification.datamodule import ONE_OBJECT, ScenesData
from glmix.data.scenes import SceneConfig
from glmix.errors import InputError
from glmix.files import atomic_write
from glmix.models import GLNet
from glmix.tasks import Classification
from glmix.training.config_errors import explain
from glmix.training.short_training import Recipe, train_on_scenes
from glmix.training.weights import nearest

__all__ = ["Ablation", "Run", "Variant", "carry_out", "finished_runs", "plan", "read_ablation", "strangers", "variants"]

MODEL = "glnet_4g"  # the model that is GLNet's own defaults, so that `base` and variants say all that differs
FORMAT = 1  # of the files; another number makes finished runs unknown


@dataclass(frozen=True)
class Ablation:
    """What is compared.

    Args:
        base: arguments of `GLNet` that all variants share.
        axes: {question: {answer: arguments of `GLNet` that take the place of the base's}}; `{}` is the base itself.
        seeds: each variant is trained once for each.
        recipe: how every variant is trained.
        scenes: what the images look like.
        train_count, val_count: scenes to learn, and scenes to be measured on.
        batch_size: scenes a step.
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
                raise InputError(f"{name} must name at least one, got {getattr(self, name)}.")
        if len(set(self.seeds)) < len(self.seeds) or min(self.seeds) < 0:
            raise InputError(f"seeds must be different numbers from 0, got {self.seeds}.")
        for name, at_least in (("train_count", self.batch_size), ("val_count", 1), ("batch_size", 1)):
            if getattr(self, name) < at_least:
                raise InputError(f"{name} must be at least {at_least}, got {getattr(self, name)}.")
        variants(self)  # refuses what no network can be built of

    def data(self, seed: int) -> ScenesData:
        """The scenes of every run with this seed, which is that of their order and turns: all seeds see the same."""
        return ScenesData(
            scenes=self.scenes,
            train_count=self.train_count,
            val_count=self.val_count,
            batch_size=self.batch_size,
            seed=seed,
        )


@dataclass(frozen=True)
class Variant:
    """A network.

    Args:
        args: all arguments of `GLNet`.
        places: where it stands, as (axis, answer): more than once if answers mean the same.
        is_base: whether it is the base itself.
    """

    args: dict[str, Any]
    places: tuple[tuple[str, str], ...]
    is_base: bool

    @property
    def name(self) -> str:
        return ": ".join(self.places[0])


@dataclass(frozen=True)
class Run:
    """One training: everything that its result depends on."""

    variant: Variant
    seed: int
    settings: dict[str, Any]

    @property
    def key(self) -> str:
        return hashlib.sha256(json.dumps(self.settings, sort_keys=True).encode()).hexdigest()[:12]


def read_ablation(path: Path) -> Ablation:
    """The configuration in a YAML file, or a ValueError that says in a sentence what is wrong with it."""
    if not path.is_file():
        raise FileNotFoundError(f"There is no configuration {path}.")
    names = [field.name for field in dataclasses.fields(Ablation)]
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(Ablation, as_group=False)
    try:
        found = parser.parse_path(str(path)).as_dict()
        found |= {"recipe": Recipe(**found["recipe"]), "scenes": SceneConfig(**found["scenes"])}
        return Ablation(**{name: found[name] for name in names})
    except ArgumentError as error:
        known = [action.dest for action in parser._actions if action.dest not in ("help", "print_config")]
        said = explain(str(error), known)
        end = f" It takes {', '.join(names)}." if said.startswith("There is no key") else ""
        raise InputError(f"{path}: {said}{end}") from error
    except ValueError as error:
        raise InputError(f"{path}: {error}") from error


def variants(config: Ablation) -> list[Variant]:
    """The different networks of all axes; answers that come to the same arguments are one variant."""
    parameters = inspect.signature(GLNet).parameters.values()
    defaults = {p.name: p.default for p in parameters if p.name not in ("num_classes", "device", "dtype")}
    base = _plain({**defaults, **config.base})
    found: dict[str, Variant] = {}
    for axis, answers in config.axes.items():
        for answer, changes in answers.items():
            for key in (*config.base, *changes):
                if key not in defaults:
                    raise InputError(
                        f"{axis}: {answer}: GLNet has no argument {key!r}.{nearest(key, defaults)} "
                        f"It takes {', '.join(defaults)}."
                    )
            args = _plain({**defaults, **config.base, **changes})
            place = (str(axis), str(answer))
            key = json.dumps(args, sort_keys=True)
            if key in found:
                found[key] = dataclasses.replace(found[key], places=(*found[key].places, place))
                continue
            try:
                GLNet(**args, num_classes=1, device="meta")
            except (TypeError, ValueError) as error:
                raise InputError(f"{axis}: {answer}: {error}") from error
            found[key] = Variant(args, (place,), args == base)
    return list(found.values())


def plan(config: Ablation) -> list[Run]:
    """All runs, one seed after the other, so that a part of them has something to say on every variant."""
    shared = {
        "format": FORMAT,
        "recipe": dataclasses.asdict(config.recipe),
        "scenes": dataclasses.asdict(config.scenes),
        "train_count": config.train_count,
        "val_count": config.val_count,
        "batch_size": config.batch_size,
    }
    return [
        Run(variant, seed, _plain({**shared, "seed": seed, "model": variant.args}))
        for seed in config.seeds
        for variant in variants(config)
    ]


def carry_out(
    config: Ablation, folder: Path, started: Callable[[Run], None], finished: Callable[[Run, dict[str, Any]], None]
) -> Iterator[dict[str, Any]]:
    """Yield the result of every run of the plan, in its order, training those that have no file in `folder` yet.

    Args:
        started: called before a run is trained.
        finished: called after a run has been trained and its file written.
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
        result = _train(run, config, data)
        _write(folder / f"{run.key}.json", {"name": run.variant.name, "settings": run.settings, "result": result})
        finished(run, result)
        yield result


def finished_runs(config: Ablation, folder: Path) -> dict[str, dict[str, Any]]:
    """{key: result} of the runs of the plan that have a file in `folder`."""
    saved = _saved(folder)
    return {run.key: saved[run.key]["result"] for run in plan(config) if run.key in saved}


def strangers(config: Ablation, folder: Path) -> dict[str, list[str]]:
    """Finished runs in `folder` that this configuration does not ask for, as {file: ["epochs was 3, is 4 now", ...]}.

    Each is compared with the run of the plan that it differs least from.
    """
    runs = plan(config)
    keys = {run.key for run in runs}
    found = {}
    for key, saved in _saved(folder).items():
        if key in keys:
            continue
        differences = [_differences(saved["settings"], run.settings) for run in runs]
        found[f"{key}.json"] = min(differences, key=len)
    return found


def _differences(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    lines = []
    for key in sorted({*old, *new}):
        before, after = old.get(key), new.get(key)
        if isinstance(before, dict) and isinstance(after, dict):
            lines += [f"{key}.{line}" for line in _differences(before, after)]
        elif before != after:
            lines.append(f"{key} was {json.dumps(before)}, is {json.dumps(after)} now")
    return lines


def _train(run: Run, config: Ablation, data: ScenesData) -> dict[str, Any]:
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


def _saved(folder: Path) -> dict[str, dict[str, Any]]:
    """{key: contents} of the files of finished runs."""
    found = {}
    for path in sorted(folder.glob("*.json")) if folder.is_dir() else []:
        try:
            saved = json.loads(path.read_text())
            saved["result"]["score"], saved["settings"]["seed"]
        except (ValueError, KeyError, TypeError) as error:
            raise InputError(f"{path} is no finished run ({error!r}): delete it, and it is trained again.") from error
        found[path.stem] = saved
    return found


def _write(path: Path, contents: dict[str, Any]) -> None:
    with atomic_write(path, flush=True) as part:
        part.write_text(json.dumps(contents, indent=2))


def _plain(value: Any) -> Any:
    """The same as JSON gives it back: tuples are lists."""
    return json.loads(json.dumps(value))
