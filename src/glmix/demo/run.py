"""The demo: train a small network on generated scenes, save and reload it, evaluate it, and draw figures.

All results come from the saved model, reloaded by timm, on test scenes that are used for nothing else.
"""

import dataclasses
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
from lightning.pytorch.callbacks import Callback
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from ..data.classification.datamodule import ScenesData
from ..data.scenes import Scene, SceneConfig, baseline_accuracies, draw_scene
from ..errors import InputError
from ..files import write_json
from ..models import GLNet
from ..slots.explorer import write_page
from ..slots.figure.page import save_figure
from ..tasks.classification import Classification
from ..tasks.weak_segmentation.figures import weakseg_sheet
from ..training.short_training import Epoch, Recipe, save_classifier, train_on_scenes
from .figures import learning_curve, prediction_sheet

__all__ = ["ARTEFACTS", "Artefact", "Demo", "DemoConfig", "run_demo"]

MODEL = "test_glnet"
MODEL_ARGS = {"depths": (1, 1, 1, 1)}


@dataclass(frozen=True)
class DemoConfig:
    """Size of the demo.

    Args:
        train_count: number of training scenes. A fifth of this number is used for validation, and as many for testing.
        recipe: training recipe.
        seed: random seed of the training. The scenes do not depend on it.
    """

    train_count: int = 5000
    recipe: Recipe = Recipe()  # noqa: RUF009 - it is frozen
    seed: int = 0

    def __post_init__(self) -> None:
        if self.train_count < 64:
            raise InputError(f"train_count must be at least 64, one batch, got {self.train_count}.")
        if self.seed < 0:
            raise InputError(f"seed must be 0 or more, got {self.seed}.")

    @property
    def held_out(self) -> int:
        """Number of validation scenes, and of test scenes."""
        return max(1, self.train_count // 5)


@dataclass(frozen=True, eq=False)
class Demo:
    """Result of the demo.

    Args:
        config: configuration.
        model: the network, reloaded from its folder, in evaluation mode.
        class_names: names of the model's outputs.
        scenes: test scenes.
        probabilities: class probabilities of the test scenes (N, K).
        baselines: `{name: accuracy}` of baselines that use colours only or texture only, on the test scenes.
        epochs: metrics per training epoch.
        seconds: duration of the training.
    """

    config: DemoConfig
    model: nn.Module
    class_names: tuple[str, ...]
    scenes: list[Scene]
    probabilities: NDArray[np.float32]
    baselines: dict[str, float]
    epochs: list[Epoch]
    seconds: float

    @property
    def labels(self) -> NDArray[np.int64]:
        """Class index of each test scene, (N,)."""
        return np.concatenate([scene.labels for scene in self.scenes])

    @property
    def accuracy(self) -> float:
        """Top-1 accuracy on the test scenes."""
        return float((self.probabilities.argmax(1) == self.labels).mean())


Artefact = Callable[[Demo, Path], None]


def _write_curve(demo: Demo, path: Path) -> None:
    save_figure(learning_curve(demo.epochs, demo.baselines), path)


def _write_sheet(demo: Demo, path: Path) -> None:
    save_figure(prediction_sheet(demo.scenes, demo.probabilities, demo.class_names), path)


def _write_images(demo: Demo, folder: Path, count: int = 12) -> None:
    """Write some test scenes as files, named by their class."""
    folder.mkdir(exist_ok=True)
    for index, scene in enumerate(demo.scenes[:count]):
        Image.fromarray(scene.image).save(folder / f"{index:02d}_{demo.class_names[scene.labels[0]]}.png")


def _write_explorer(demo: Demo, path: Path) -> None:
    """Write the explorer page of the first test scene."""
    scene, names = demo.scenes[0], demo.class_names
    label = names[scene.labels[0]]
    image, model = Image.fromarray(scene.image), ("this network", demo.model)
    write_page(path, image, [model], title=f"A held-out scene: {label}", label_names=names.__getitem__)


def _write_masks(demo: Demo, path: Path) -> None:
    save_figure(weakseg_sheet(demo.model, demo.scenes, demo.class_names), path)


def _write_result(demo: Demo, path: Path) -> None:
    contents = {
        "accuracy": demo.accuracy,
        "baselines": demo.baselines,
        "held_out": len(demo.scenes),
        "seconds": demo.seconds,
        "parameters": sum(p.numel() for p in demo.model.parameters()),
        "config": dataclasses.asdict(demo.config),
        "epochs": [dataclasses.asdict(epoch) for epoch in demo.epochs],
    }
    write_json(path, contents)


# Files written in addition to the model: {file name: (description, function that writes it)}.
ARTEFACTS: dict[str, tuple[str, Artefact]] = {
    "curve.png": ("accuracy and loss over epochs", _write_curve),
    "predictions.png": ("predictions on test scenes, right and wrong", _write_sheet),
    "images": ("some test scenes as image files", _write_images),
    "masks.png": ("pseudo masks of a network trained on image labels only", _write_masks),
    "explorer.html": ("slots of a test scene: open this page in a browser", _write_explorer),
    "result.json": ("all results as JSON", _write_result),
}


def run_demo(
    out: Path,
    config: DemoConfig,
    *,
    artefacts: Mapping[str, tuple[str, Artefact]] = ARTEFACTS,
    callbacks: tuple[Callback, ...] = (),
    log: Callable[[str], None] = lambda text: None,
) -> Demo:
    """Train a network, save it to `out`/model, reload it, evaluate it, and write the artefacts to `out`.

    Args:
        out: output folder.
        config: size of the demo.
        artefacts: `{file name: (description, function that writes it)}`.
        callbacks: Lightning callbacks of the training.
        log: receives one line of text per step.

    Raises:
        InputError: `out` contains a model, but not of a completed demo.
    """
    if (out / "model").exists() and not (out / "result.json").exists():
        raise InputError(f"{out / 'model'} exists, and is not from a completed demo: choose another folder.")
    out.mkdir(parents=True, exist_ok=True)
    scenes = SceneConfig(objects=(1, 1))
    log(f"Generating {config.train_count:,} training scenes and {2 * config.held_out:,} held-out scenes.")
    data = ScenesData(scenes, config.train_count, config.held_out, config.held_out, seed=config.seed)
    data.setup("fit")
    task = Classification(model=MODEL, model_args=MODEL_ARGS, **config.recipe.task_arguments(config.seed))
    log(f"Training for {config.recipe.epochs} epochs.")
    start = time.perf_counter()
    epochs = train_on_scenes(task, data, config.recipe, callbacks=callbacks)
    seconds = time.perf_counter() - start

    log("Saving and reloading the model, and evaluating it and the baselines on held-out scenes.")
    assert isinstance(task.model, GLNet)
    folder = out / "model"
    save_classifier(task.model, folder, data)
    model = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    held_out = [draw_scene(scenes, "test", index) for index in range(config.held_out)]
    training = [draw_scene(scenes, "train", index) for index in range(config.train_count)]
    demo = Demo(
        config=config,
        model=model,
        class_names=scenes.class_names,
        scenes=held_out,
        probabilities=_predict(model, data),
        baselines={"chance": 1 / scenes.num_classes, **baseline_accuracies(training, held_out)},
        epochs=epochs,
        seconds=seconds,
    )
    for name, (_, write) in artefacts.items():
        write(demo, out / name)
    return demo


@torch.inference_mode()
def _predict(model: nn.Module, data: ScenesData) -> NDArray[np.float32]:
    """Return the class probabilities of the test scenes (N, K)."""
    data.setup("test")
    batches: list[Tensor] = [model(batch[0]).softmax(1) for batch in data.test_dataloader()]
    found: Any = torch.cat(batches).numpy()
    return found
