"""GLNet as the backbone of an Ultralytics YOLO detector, trained on generated images.

    pip install glmix ultralytics
    python examples/yolo.py --epochs 4

Ultralytics builds a model from a YAML file: a list of layers, each with the layers that it reads from. The first layer
here is a GLNet, which returns the feature maps of strides 8, 16 and 32, and three layers `Index` select one of them
each. Neck and head are modules of Ultralytics. To start from ImageNet weights, give a folder that `glmix convert`
wrote: `--backbone local-dir:glnet_4g`. Ultralytics is licensed under AGPL-3.0.
"""

import argparse
import csv
from pathlib import Path
from typing import Any, Literal

import timm
import torch
import yaml
from PIL import Image
from torch import Tensor, nn
from ultralytics import YOLO
from ultralytics.nn import tasks

import glmix
from glmix.data import SceneConfig, draw_scene

EPS = 1e-5  # eps of the BatchNorm layers of a GLNet


class GLNetPyramid(nn.Module):
    """Images (B, 3, H, W) from 0 to 1 -> feature maps of strides 8, 16 and 32.

    Args:
        name: a GLNet, such as `glnet_4g`, or `local-dir:FOLDER`, whose weights are loaded.
    """

    def __init__(self, name: str) -> None:
        super().__init__()
        model = timm.create_model(name, pretrained=name.startswith("local-dir:"))
        for part in ("mean", "std"):  # Ultralytics does not normalise images
            self.register_buffer(part, torch.tensor(model.pretrained_cfg[part]).view(1, 3, 1, 1), persistent=False)
        self.pyramid = glmix.Pyramid(model, (1, 2, 3))

    def forward(self, images: Tensor) -> list[Tensor]:
        return self.pyramid((images - self.mean) / self.std)

    def train(self, mode: bool = True) -> "GLNetPyramid":
        super().train(mode)
        for module in self.modules():  # Ultralytics sets the eps of every BatchNorm to 1e-3
            if isinstance(module, nn.BatchNorm2d):
                module.eps = EPS
        return self


tasks.GLNetPyramid = GLNetPyramid  # Ultralytics finds the modules of a YAML file by their names in this namespace


def model_config(backbone: str, num_classes: int, width: int) -> dict[str, Any]:
    """Return the YAML file of a YOLO detector, as a dictionary: rows of [from, repeats, module, arguments].

    Args:
        backbone: the name of the GLNet, see `GLNetPyramid`.
        num_classes: number of classes.
        width: channels of the neck.
    """
    channels = GLNetPyramid(backbone).pyramid.channels
    upsample = [-1, 1, "nn.Upsample", ["None", 2, "nearest"]]
    return {
        "nc": num_classes,
        "backbone": [
            [-1, 1, "GLNetPyramid", [repr(backbone)]],
            *([0, 1, "Index", [dim, index]] for index, dim in enumerate(channels)),  # layers 1, 2, 3
        ],
        "head": [
            upsample,
            [[-1, 2], 1, "Concat", [1]],
            [-1, 1, "C2f", [width]],  # layer 6, stride 16
            upsample,
            [[-1, 1], 1, "Concat", [1]],
            [-1, 1, "C2f", [width]],  # layer 9, stride 8
            [-1, 1, "Conv", [width, 3, 2]],
            [[-1, 6], 1, "Concat", [1]],
            [-1, 1, "C2f", [width]],  # layer 12, stride 16
            [-1, 1, "Conv", [width, 3, 2]],
            [[-1, 3], 1, "Concat", [1]],
            [-1, 1, "C2f", [width]],  # layer 15, stride 32
            [[9, 12, 15], 1, "Detect", ["nc"]],
        ],
    }


def write_scenes(folder: Path, split: Literal["train", "val"], count: int, config: SceneConfig) -> None:
    """Write generated images and their boxes in the layout of Ultralytics."""
    for name in ("images", "labels"):
        (folder / name / split).mkdir(parents=True)
    for index in range(count):
        scene = draw_scene(config, split, index)
        Image.fromarray(scene.image).save(folder / "images" / split / f"{index:04}.png")
        lines = []
        for (left, top, right, bottom), label in zip(scene.boxes.tolist(), scene.labels.tolist(), strict=True):
            box = ((left + right) / 2, (top + bottom) / 2, right - left, bottom - top)
            lines.append(" ".join([str(label), *(f"{value / config.size:.5f}" for value in box)]))
        (folder / "labels" / split / f"{index:04}.txt").write_text("\n".join(lines))


def main(arguments: list[str] | None = None) -> tuple[list[float], float]:
    """Train a detector and return the training loss of each epoch and the AP50 of the best weights."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbone", default="test_glnet", help="a GLNet, or local-dir:FOLDER")
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--images", type=int, default=400)
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--out", type=Path, default=Path("out/yolo"), help="folder for images and results")
    args = parser.parse_args(arguments)
    scenes = SceneConfig(size=args.size, shapes=("disc",), objects=(1, 2))
    data = args.out.resolve() / "data"
    write_scenes(data, "train", args.images, scenes)
    write_scenes(data, "val", args.images // 8, scenes)
    names = dict(enumerate(scenes.class_names))
    for path, content in {
        data / "data.yaml": {"path": str(data), "train": "images/train", "val": "images/val", "names": names},
        args.out / "model.yaml": model_config(args.backbone, len(names), width=64),
    }.items():
        path.write_text(yaml.safe_dump(content))

    model = YOLO(args.out / "model.yaml", task="detect")
    metrics = model.train(
        data=data / "data.yaml",
        epochs=args.epochs,
        imgsz=args.size,
        batch=16,
        device=args.device,
        workers=0,
        optimizer="AdamW",
        lr0=2e-3,
        warmup_epochs=0.5,
        mosaic=0.0,
        amp=False,
        plots=False,
        project=str(args.out.resolve()),
        name="run",
    )
    with (args.out / "run" / "results.csv").open() as file:
        rows = list(csv.DictReader(file))
    losses = [sum(float(value) for key, value in row.items() if key.startswith("train/")) for row in rows]
    print(
        f"training loss {losses[0]:.2f} in the first epoch, {losses[-1]:.2f} in the last; AP50 {metrics.box.map50:.3f}"
    )
    return losses, float(metrics.box.map50)


if __name__ == "__main__":
    from yolo import main  # so that saved detectors name the module `yolo`, and not `__main__`

    main()
