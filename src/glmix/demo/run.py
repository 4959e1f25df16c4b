"""The demo: a small network learns scenes in minutes, is saved, read back, judged and shown.

Everything that is told about it comes from the saved model as timm reads it, on scenes that nothing was chosen by.
"""

import dataclasses
import json
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
from ..models import GLNet, save_model
from ..slots.explorer import write_page
from ..tasks.classification import Classification
from ..tasks.weak_segmentation.figures import weakseg_sheet
from ..training.short_training import Epoch, Recipe, train_on_scenes
from .figures import learning_curve, prediction_sheet, save_figure

__all__ = ["ARTEFACTS", "Artefact", "Demo", "DemoConfig", "run_demo"]

MODEL = "test_glnet"
MODEL_ARGS = {"depths": (1, 1, 1, 1)}


@dataclass(frozen=True)
class DemoConfig:
    """How large the demo is.

    Args:
        train_count: scenes to learn; a fifth as many are held out to draw the curve, and as many again for the result.
        recipe: how they are learnt.
        seed: of everything random in the training; the scenes stay the same.
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
        return max(1, self.train_count // 5)


@dataclass(frozen=True, eq=False)
class Demo:
    """What became of it: all that a page or a figure on it needs.

    Args:
        config: how it was made.
        model: the network, read back from the folder that it was saved in; in evaluation mode.
        class_names: of its outputs.
        scenes: held-out scenes, in whole.
        probabilities: what the model says about them (N, K).
        baselines: {name: accuracy} of what a look at colours or at texture alone reaches on the same scenes.
        epochs: how the training went.
        seconds: what the training took.
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
        """(N,)"""
        return np.concatenate([scene.labels for scene in self.scenes])

    @property
    def accuracy(self) -> float:
        return float((self.probabilities.argmax(1) == self.labels).mean())


Artefact = Callable[[Demo, Path], None]


def _write_curve(demo: Demo, path: Path) -> None:
    save_figure(learning_curve(demo.epochs, demo.baselines), path)


def _write_sheet(demo: Demo, path: Path) -> None:
    save_figure(prediction_sheet(demo.scenes, demo.probabilities, demo.class_names), path)


def _write_images(demo: Demo, folder: Path, count: int = 12) -> None:
    """Held-out scenes as files, named by what they show."""
    folder.mkdir(exist_ok=True)
    for index, scene in enumerate(demo.scenes[:count]):
        Image.fromarray(scene.image).save(folder / f"{index:02d}_{demo.class_names[scene.labels[0]]}.png")


def _write_explorer(demo: Demo, path: Path) -> None:
    """The slots of the first held-out scene, to be explored."""
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
    path.write_text(json.dumps(contents, indent=2) + "\n")


# What is written beside the model: {file: (what it is, how it is written)}.
ARTEFACTS: dict[str, tuple[str, Artefact]] = {
    "curve.png": ("how it learnt", _write_curve),
    "predictions.png": ("what it says about held-out scenes, right and wrong", _write_sheet),
    "images": ("some of them as files", _write_images),
    "masks.png": ("masks that it can draw, though it was told labels only", _write_masks),
    "explorer.html": ("what its slots see: open it in a browser", _write_explorer),
    "result.json": ("all numbers", _write_result),
}


def run_demo(
    out: Path,
    config: DemoConfig,
    *,
    artefacts: Mapping[str, tuple[str, Artefact]] = ARTEFACTS,
    callbacks: tuple[Callback, ...] = (),
    say: Callable[[str], None] = lambda text: None,
) -> Demo:
    """Train, save to `out`/model, read that back, judge it and write the artefacts beside it."""
    if (out / "model").exists() and not (out / "result.json").exists():
        raise InputError(f"{out / 'model'} is there already, and not from a demo that ended: choose another folder.")
    out.mkdir(parents=True, exist_ok=True)
    scenes = SceneConfig(objects=(1, 1))
    say(f"Drawing {config.train_count:,} scenes to learn and {2 * config.held_out:,} to hold out.")
    data = ScenesData(scenes, config.train_count, config.held_out, config.held_out, seed=config.seed)
    data.setup("fit")
    task = Classification(model=MODEL, model_args=MODEL_ARGS, **config.recipe.task_arguments(config.seed))
    say(f"Training for {config.recipe.epochs} epochs.")
    start = time.perf_counter()
    epochs = train_on_scenes(task, data, config.recipe, callbacks=callbacks)
    seconds = time.perf_counter() - start

    say("Saving the model, reading it back, and asking it and the baselines about scenes that it never saw.")
    assert isinstance(task.model, GLNet)
    folder = out / "model"
    _save(task.model, folder, data)
    model = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    held_out = [draw_scene(scenes, "test", index) for index in range(config.held_out)]
    learnt = [draw_scene(scenes, "train", index) for index in range(config.train_count)]
    demo = Demo(
        config=config,
        model=model,
        class_names=scenes.class_names,
        scenes=held_out,
        probabilities=_predict(model, data),
        baselines={"chance": 1 / scenes.num_classes, **baseline_accuracies(learnt, held_out)},
        epochs=epochs,
        seconds=seconds,
    )
    for name, (_, write) in artefacts.items():
        write(demo, out / name)
    return demo


def _save(model: GLNet, folder: Path, data: ScenesData) -> None:
    """Save the model with what its images must look like and its classes' names, so that it can be used alone."""
    model.pretrained_cfg.update(
        num_classes=data.num_classes,
        label_names=data.class_names,
        input_size=data.input_size,
        pool_size=None,
        crop_pct=1.0,
        mean=data.mean,
        std=data.std,
    )
    save_model(model.cpu(), folder)


@torch.inference_mode()
def _predict(model: nn.Module, data: ScenesData) -> NDArray[np.float32]:
    data.setup("test")
    batches: list[Tensor] = [model(batch[0]).softmax(1) for batch in data.test_dataloader()]
    found: Any = torch.cat(batches).numpy()
    return found
