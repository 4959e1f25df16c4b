"""Compare fine-tuning methods for different numbers of training images, on scenes.

    OMP_NUM_THREADS=1 python -m studies.finetuning

A small GLNet is trained on scenes of some shapes and textures. It is then fine-tuned on scenes of other shapes and
textures, with few images per class on average, with the methods of docs/fine-tuning.md. All use the same number of
steps.
"""

import argparse
import json
import time
from pathlib import Path
from typing import Any

import torch

from glmix.data.classification.datamodule import ScenesData
from glmix.data.scenes import SceneConfig
from glmix.files import write_atomically
from glmix.tasks import Classification, OptimizerConfig
from glmix.training.lora import LoraConfig
from glmix.training.short_training import Recipe, train_on_scenes

SOURCE = SceneConfig(objects=(1, 1), shapes=("disc", "cross", "ring"), textures=("stripes", "checks"))
TARGET = SceneConfig(objects=(1, 1), shapes=("square", "triangle", "crescent"), textures=("dots", "zigzag"), seed=1)
MODEL: dict[str, Any] = {"model": "test_glnet", "model_args": {"depths": [1, 1, 1, 1]}}
BATCH = 16
# arguments of the task, and the learning rate
METHODS: dict[str, tuple[dict[str, Any], float]] = {
    "from scratch": ({"checkpoint": None}, 2e-3),
    "linear probe": ({"trainable_stages": 0}, 1e-2),
    "last stage": ({"trainable_stages": 1}, 1e-3),
    "LoRA, rank 8": ({"lora": LoraConfig()}, 2e-3),
    "all layers": ({"layer_decay": 0.7}, 1e-3),
}


def pretrain(path: Path, epochs: int, count: int) -> None:
    """Train a model on the source scenes and write its weights."""
    if path.is_file():
        return
    recipe = Recipe(epochs=epochs)
    task = Classification(**MODEL, **recipe.task_arguments(0))
    data = ScenesData(SOURCE, train_count=count, val_count=500)
    (epoch,) = train_on_scenes(task, data, recipe, every_epoch=False)
    print(f"source: {epoch.score:.3f} after {epochs} epochs, {epoch.seconds:.0f} s", flush=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(task.model.state_dict(), path)


def fine_tune(method: str, per_class: int, seed: int, start: Path, steps: int, val_count: int) -> dict[str, float]:
    """Return the accuracy, the number of trained weights and the training time of one way of fine-tuning."""
    options, lr = METHODS[method]
    options = {"checkpoint": str(start), **options}
    layer_decay = options.pop("layer_decay", None)
    count = per_class * TARGET.num_classes
    batch = min(BATCH, count)
    recipe = Recipe(epochs=max(1, round(steps / (count // batch))), lr=lr)
    arguments = recipe.task_arguments(seed)
    arguments["optimizer"] = OptimizerConfig(lr=lr, base_batch=None, layer_decay=layer_decay)
    task = Classification(**MODEL, **options, **arguments)
    data = ScenesData(TARGET, train_count=count, val_count=val_count, batch_size=batch, eval_batch_size=100, seed=seed)
    (epoch,) = train_on_scenes(task, data, recipe, every_epoch=False)
    trained = sum(p.numel() for p in task.model.parameters() if p.requires_grad)
    return {"score": epoch.score, "trained": trained, "seconds": epoch.seconds}


def table(results: dict[str, dict[str, float]], counts: list[int], seeds: list[int]) -> str:
    """Return the mean accuracies as a Markdown table."""
    lines = ["| method | trained weights | " + " | ".join(f"{count} per class" for count in counts) + " |"]
    lines.append("|---" * (2 + len(counts)) + "|")
    for method in METHODS:
        found = [[results[f"{method}/{count}/{seed}"] for seed in seeds] for count in counts]
        cells = [f"{sum(r['score'] for r in runs) / len(runs):.3f}" for runs in found]
        lines.append(f"| {method} | {found[0][0]['trained']:,.0f} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> None:
    """Run the study; finished parts are read from the output folder."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("out/finetuning"), help="folder of the results")
    parser.add_argument("--per-class", type=int, nargs="+", default=[3, 10, 100], help="training images per class")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1], help="seeds of sample order and training")
    parser.add_argument("--steps", type=int, default=150, help="optimizer steps of each fine-tuning")
    parser.add_argument("--epochs", type=int, default=12, help="epochs of the training on the source scenes")
    parser.add_argument("--source-count", type=int, default=3000, help="number of source scenes")
    parser.add_argument("--val-count", type=int, default=600, help="number of validation scenes")
    args = parser.parse_args(argv)
    start = args.out / "source.pth"
    pretrain(start, args.epochs, args.source_count)
    file = args.out / "results.json"
    results: dict[str, dict[str, float]] = json.loads(file.read_text()) if file.is_file() else {}
    for seed in args.seeds:
        for count in args.per_class:
            for method in METHODS:
                key = f"{method}/{count}/{seed}"
                if key not in results:
                    began = time.perf_counter()
                    results[key] = fine_tune(method, count, seed, start, args.steps, args.val_count)
                    write_atomically(file, json.dumps(results, indent=1))
                    print(f"{key}: {results[key]['score']:.3f}, {time.perf_counter() - began:.0f} s", flush=True)
    print(table(results, args.per_class, args.seeds))


if __name__ == "__main__":
    main()
