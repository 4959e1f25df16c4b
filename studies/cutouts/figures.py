"""Pictures for the documentation: test images, their exact masks, and the masks that a network predicts."""

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from glmix.data.core.image_files import read_ids, read_upright
from glmix.data.segmentation.datamodule import MaskData
from glmix.drawing import draw_segmentation
from glmix.tasks.segmentation.inference import label_map, segment
from studies.cutouts.dense import mask_data, segmentation_task

__all__ = ["segmentation_sheet"]

COLUMNS = 10
SCALE = 1.5


def segmentation_sheet(root: Path, results: Path, name: str = "test_glnet", seed: int = 0) -> Image.Image:
    """Return a sheet of test images: as they are, with their true masks and, if it is trained, those of a network.

    Args:
        root: folder of the data set.
        results: folder of the results.
        name: backbone of the segmentation network.
        seed: seed of its training.
    """
    data = mask_data(root, seed)
    data.setup("test")
    files = [root / "voc" / "JPEGImages" / f"scene_test_{number:08d}.jpg" for number in range(1, COLUMNS + 1)]
    images = [np.asarray(read_upright(file)) for file in files]
    truth = [read_ids(root / "voc" / "SegmentationClass" / f"{file.stem}.png").astype(np.uint8) for file in files]
    rows: list[list[NDArray[np.uint8]]] = [[np.zeros_like(mask) for mask in truth], truth]
    weights = results / "networks" / f"segmentation-{name}-seed{seed}.pt"
    if weights.is_file():
        rows.append(_predictions(data, weights, name, seed))
    picture = np.concatenate([np.concatenate(images, 1)] * len(rows))
    labels = np.concatenate([np.concatenate(row, 1) for row in rows])
    size = round(picture.shape[1] * SCALE), round(picture.shape[0] * SCALE)
    enlarged = Image.fromarray(picture).resize(size, Image.Resampling.LANCZOS)
    mask = Image.fromarray(labels).resize(size, Image.Resampling.NEAREST)
    return draw_segmentation(enlarged, np.asarray(mask), data.class_names or [], strength=0.6)


@torch.no_grad()
def _predictions(data: MaskData, weights: Path, name: str, seed: int) -> list[NDArray[np.uint8]]:
    assert data.num_classes is not None
    network = segmentation_task(name, 10, seed).build(data.num_classes)
    network.load_state_dict(torch.load(weights, weights_only=True))
    network.eval()
    found: list[NDArray[np.uint8]] = []
    for images, masks in data.test_dataloader():
        predicted = label_map(segment(network, images), tuple(masks.shape[1:]))
        found += list(predicted.numpy().astype(np.uint8))
        if len(found) >= COLUMNS:
            break
    return found[:COLUMNS]
