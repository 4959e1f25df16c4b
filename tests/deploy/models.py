"""Helpers for tests of exported files: small models, images and tolerances."""

import re
from pathlib import Path

import numpy as np
import timm
import torch
from torch import nn

from glmix.models import GLNet

PAGE = Path(__file__).parents[2] / "docs" / "deploy.md"
SIZES = [(33, 47), (64, 64), (97, 130), (160, 72), (224, 224)]
# two blocks, one of each kind, for tests of capturing a graph, whose time depends on the number of operators
FEW = {"widths": (32, 64), "depths": (1, 1), "mixers": ("glmix", "attn")}
# one block with slots, for what does not depend on the network
ONE = {"widths": (64,), "depths": (1,), "mixers": ("glmix",), "stem": "patch", "num_classes": 5}
SMALL = {"depths": (1, 1, 1, 1), "num_classes": 5}
# the fewest operators that still have slots and attention
SMALLEST = {**SMALL, "mixers": ("attn", "attn", "glmix", "attn"), "pos_conv": False, "mlp_conv": False}


def trained(name: str, **kwargs) -> GLNet:
    """Return a model whose norms, biases and scales have values as after training."""
    torch.manual_seed(0)
    model = timm.create_model(name, **kwargs)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean.normal_(std=0.5)
                module.running_var.uniform_(0.5, 1.5)
        for parameter_name, parameter in model.named_parameters():
            if parameter.ndim == 1 and not parameter_name.endswith("bridge.scale"):
                parameter += 0.3 * torch.randn_like(parameter)
    return model.eval()


def make(**kwargs) -> GLNet:
    torch.manual_seed(0)
    model = timm.create_model("test_glnet", **{**SMALL, **kwargs}).eval()
    model.pretrained_cfg["label_names"] = [f"class {index}" for index in range(5)]
    return model


def pixels(batch: int, height: int, width: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(height)
    return torch.randint(0, 256, (batch, 3, height, width), generator=generator, dtype=torch.uint8)


def normalised(images: torch.Tensor) -> torch.Tensor:
    """Normalise uint8 images (B, C, H, W) as timm does for a model."""
    mean, std = (torch.tensor(values).view(1, -1, 1, 1) for values in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    return (images.float() / 255 - mean) / std


def close(found: np.ndarray, expected: torch.Tensor) -> None:
    assert np.abs(found - expected.numpy()).max() <= 1e-4 * expected.abs().max()


def page_blocks() -> list[str]:
    """Return the Python code blocks in the section on export of the documentation."""
    section = PAGE.read_text().split("## Export", 1)[1].split("\n## ", 1)[0]
    return re.findall(r"```python\n(.*?)```", section, re.DOTALL)
