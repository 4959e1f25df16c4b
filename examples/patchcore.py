"""GLNet as the backbone of anomalib's PatchCore: detect defects after training on images without defects.

    pip install glmix anomalib
    python examples/patchcore.py

PatchCore stores features of images without defects and scores a new image by its distance to them. anomalib accepts
timm models by name, so `local-dir:FOLDER` gives it a GLNet with weights: a folder written by `glmix convert` or
`glmix.save_model`. Without `--backbone`, this program trains a small classifier on generated images for some seconds
and uses that. The images show a woven fabric; a defect is a spot where the threads run in another direction.
"""

import argparse
from pathlib import Path

import numpy as np
import timm
import torch
from anomalib.data import Folder
from anomalib.engine import Engine
from anomalib.models import Patchcore
from numpy.typing import NDArray
from PIL import Image
from torch.nn import functional as F

import glmix
from glmix.data import SceneConfig, SceneDataset

MEAN, STD = ([[[0.485]], [[0.456]], [[0.406]]], [[[0.229]], [[0.224]], [[0.225]]])  # of PatchCore's normalisation


def train_backbone(folder: Path, steps: int) -> None:
    """Train a small GLNet to classify generated images, and save it as a folder that timm can load."""
    scenes = SceneDataset(SceneConfig(objects=(1, 1)), "train", 16 * steps, target="label")
    model = timm.create_model("test_glnet", num_classes=len(scenes.config.class_names))
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    warmup = torch.optim.lr_scheduler.LinearLR(optimizer, 0.05, total_iters=20)
    for step in range(steps):
        batch = [scenes[16 * step + index] for index in range(16)]
        images = torch.stack([image for image, _ in batch]).float() / 255
        logits = model((images - torch.tensor(MEAN)) / torch.tensor(STD))
        loss = F.cross_entropy(logits, torch.tensor([label for _, label in batch]))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        warmup.step()
    print(f"backbone: loss {loss.item():.2f} after {steps} steps")
    glmix.save_model(model, folder)


def fabric(rng: np.random.Generator, size: int, defect: bool) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Draw a woven fabric (H, W, 3) and the mask of its defect (H, W), 255 in the defect."""
    rows, columns = np.mgrid[:size, :size]

    def weave(angle: float) -> NDArray[np.float64]:
        across = np.cos(angle) * columns + np.sin(angle) * rows
        along = np.cos(angle) * rows - np.sin(angle) * columns
        phases = rng.uniform(0, 2 * np.pi, 2)
        return 0.5 + 0.2 * np.sin(0.9 * across + phases[0]) + 0.2 * np.sin(0.45 * along + phases[1])

    image, mask = weave(0.0), np.zeros((size, size), dtype=bool)
    if defect:
        row, column = rng.uniform(0.3 * size, 0.7 * size, 2)
        mask = np.hypot(rows - row, columns - column) < rng.uniform(0.15, 0.25) * size
        image = np.where(mask, weave(rng.uniform(0.6, 1.0)), image)
    image = rng.uniform(0.8, 1.0) * image + rng.normal(0, 0.03, image.shape)
    colour = np.array([0.9, 0.8, 0.6])
    return (255 * image.clip(0, 1)[..., None] * colour).astype(np.uint8), (255 * mask).astype(np.uint8)


def write_images(folder: Path, counts: dict[str, int], size: int) -> None:
    """Write images of fabrics without defects (`good`, `good_test`) and with defects (`defect`, masks in `mask`)."""
    rng = np.random.default_rng(0)
    for kind, count in counts.items():
        (folder / kind).mkdir(parents=True)
        for index in range(count):
            image, mask = fabric(rng, size, defect=kind == "defect")
            Image.fromarray(image).save(folder / kind / f"{index:03}.png")
            if kind == "defect":
                (folder / "mask").mkdir(exist_ok=True)
                Image.fromarray(mask).save(folder / "mask" / f"{index:03}.png")


def main(arguments: list[str] | None = None) -> dict[str, float]:
    """Fill the memory of PatchCore, and return the scores of anomalib on test images with and without defects."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbone", help="a timm model with weights, such as local-dir:FOLDER")
    parser.add_argument("--layers", nargs="+", default=["stages.1"], help="features; stages.1 has stride 8")
    parser.add_argument("--steps", type=int, default=100, help="training steps of the backbone")
    parser.add_argument("--images", type=int, default=24, help="images without defects")
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--out", type=Path, default=Path("out/patchcore"), help="folder for images and results")
    args = parser.parse_args(arguments)
    torch.manual_seed(0)
    write_images(args.out / "images", {"good": args.images, "good_test": 16, "defect": 16}, args.size)
    backbone = args.backbone
    if backbone is None:
        train_backbone(args.out / "backbone", args.steps)
        backbone = f"local-dir:{args.out / 'backbone'}"

    model = Patchcore(
        backbone=backbone,
        layers=args.layers,
        coreset_sampling_ratio=0.02,  # fraction of the features that are stored; selecting them takes memory and time
        pre_processor=Patchcore.configure_pre_processor((args.size, args.size)),
    )
    data = Folder(
        name="fabric",
        root=args.out / "images",
        normal_dir="good",
        normal_test_dir="good_test",
        abnormal_dir="defect",
        mask_dir="mask",
        train_batch_size=8,
        eval_batch_size=8,
        num_workers=0,
    )
    engine = Engine(default_root_dir=args.out / "results", accelerator="auto", devices=1)
    engine.fit(model, datamodule=data)
    (scores,) = engine.test(model, datamodule=data)
    return dict(scores)


if __name__ == "__main__":
    main()
