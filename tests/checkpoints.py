"""Small checkpoints of dense prediction networks, as `glmix fit` writes them, without a training."""

from pathlib import Path
from typing import Any

import torch

from glmix.tasks import Detection, DetectorConfig, Segmentation
from tests.training.test_hostile_checkpoints import checkpoint_of

TINY: dict[str, Any] = {
    "widths": (16, 16, 32, 32),
    "depths": (1, 1, 1, 1),
    "num_slots": 4,
    "mixers": ("attn", "attn", "glmix", "attn"),
}
NAMES = ["cat", "dog", "bird"]
CATEGORY_IDS = [4, 17, 90]


def detector(root: Path, kind: str) -> Path:
    """Write the checkpoint of a detector whose scores spread like those of a trained one."""
    torch.manual_seed(0)
    sizes = {"channels": 16, "box_features": 16, "min_size": 64, "max_size": 96, "max_detections": 6}
    config = DetectorConfig(kind=kind, frozen_statistics=False, **sizes)  # type: ignore[arg-type]
    content = checkpoint_of(Detection(model="test_glnet", model_args=TINY, detector=config))
    for name, tensor in content["state_dict"].items():
        if kind == "retinanet" and ".head." in name and tensor.ndim == 4:
            tensor.normal_(std=0.12)  # keeps the variance: sqrt(2 / (16 * 9))
        elif name.endswith(("cls_logits.weight", "cls_score.weight", "bbox_pred.weight")):
            tensor.normal_(std=0.3)
        if name.endswith("mask_fcn_logits.weight"):
            tensor.normal_()
        if name.endswith("cls_logits.bias"):
            tensor.zero_()
    content["glmix"].update(class_names=NAMES, category_ids=CATEGORY_IDS)
    path = root / f"{kind}.ckpt"
    torch.save(content, path)
    return path


# backbone and decoder; exporting Segformer on two stages for all sizes takes half the time of FPN on four
PLAIN = {"pos_conv": False, "mlp_conv": False}
SEGMENTERS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "fpn": ({**TINY, **PLAIN}, {"decoder_pyramid_channels": 32, "decoder_segmentation_channels": 64}),
    "segformer": (
        {"widths": (16, 32), "depths": (1, 1), "num_slots": 4, "mixers": ("attn", "glmix"), **PLAIN},
        {"encoder_depth": 3, "decoder_segmentation_channels": 32},
    ),
}


def segmenter(root: Path, resize: tuple[int, int] | None = (80, 60), decoder: str = "fpn") -> Path:
    """Write the checkpoint of a segmentation network."""
    torch.manual_seed(0)
    args, decoder_args = SEGMENTERS[decoder]
    content = checkpoint_of(
        Segmentation(model="test_glnet", model_args=args, decoder=decoder, decoder_args=decoder_args)
    )
    content["glmix"].update(class_names=NAMES, resize=resize)
    path = root / "segmenter.ckpt"
    torch.save(content, path)
    return path
