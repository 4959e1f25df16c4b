"""Models as a folder that timm and transformers read: config.json, model.safetensors and a model card."""

import json
from pathlib import Path

import safetensors.torch
import timm
from timm.models._hub import save_config_for_hf

from ..errors import InputError
from .glnet import GLNet
from .official import PUBLISHED_TOP1, misfits

__all__ = ["model_card", "save_model"]

_CARD = """---
license: mit
library_name: timm
tags:
- image-classification
- timm
- transformers
- glmix
---
# {name}

A GLNet image classifier ({parameters:.1f}M parameters, {classes} classes, images of {width} x {height} pixels with
{in_chans} channels): convolutions on a grid of pixels and self-attention among a few semantic slots, side by side in
every layer.
{accuracy}
```python
import glmix, timm

model = timm.create_model("local-dir:{folder}", pretrained=True).eval()
transform = timm.data.create_transform(**timm.data.resolve_data_config(model=model))
```

```python
import glmix
from transformers import TimmWrapperForImageClassification

model = TimmWrapperForImageClassification.from_pretrained("{folder}")
```

Paper: Zhu, Wang, Zhang, Lau: Revisiting the Integration of Convolution and Attention for Vision Backbone,
NeurIPS 2024, arXiv:2411.14429.
"""


def model_card(model: GLNet, folder: str) -> str:
    """What a saved model is and how to load it, in Markdown."""
    cfg = model.pretrained_cfg
    name = cfg["architecture"]
    accuracy = ""
    if name in PUBLISHED_TOP1 and model.num_classes == 1000:
        accuracy = (
            f"\nThe authors publish {PUBLISHED_TOP1[name]} % top-1 on ImageNet-1k for their weights of this model; "
            "converting changes none of them.\n"
        )
    return _CARD.format(
        name=name,
        parameters=sum(p.numel() for p in model.parameters()) / 1e6,
        classes=model.num_classes,
        in_chans=model.in_chans,
        height=cfg["input_size"][1],
        width=cfg["input_size"][2],
        accuracy=accuracy,
        folder=folder,
    )


def save_model(model: GLNet, folder: str | Path) -> str:
    """Write a folder for `timm.create_model("local-dir:...")` and transformers; returns its model card."""
    folder = Path(folder)
    current = ("num_classes", "global_pool", "in_chans")  # what the model says of itself, whatever it was built with
    model_args = {name: value for name, value in model._model_args.items() if name not in current}
    model_args |= {"in_chans": model.in_chans, "global_pool": model.head.global_pool.pool_type}
    # safetensors takes contiguous tensors alone, and those of a channels-last model are not
    weights = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
    name = model.pretrained_cfg["architecture"]
    read = timm.create_model(name, num_classes=model.num_classes, device="meta", **model_args)
    if lines := misfits(weights, read):
        raise InputError(
            f"These weights would not be read into {name} again ({lines[0]}): a fused, wrapped or otherwise changed "
            "model is saved by torch.save; save the folder before changing the model."
        )
    folder.mkdir(parents=True, exist_ok=True)
    safetensors.torch.save_file(weights, folder / "model.safetensors")
    config_path = folder / "config.json"
    save_config_for_hf(model, config_path, model_args=model_args)
    config = json.loads(config_path.read_text())
    # timm repeats the number of classes among the model's arguments; transformers passes it a second time and fails
    config.get("model_args", {}).pop("num_classes", None)
    config_path.write_text(json.dumps(config, indent=2) + "\n")
    card = model_card(model, str(folder))
    (folder / "README.md").write_text(card)
    return card
