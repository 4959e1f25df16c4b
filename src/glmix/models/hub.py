"""Models as a folder that timm and transformers read: config.json, model.safetensors and a model card."""

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import safetensors.torch
import timm
from timm.models import PretrainedCfg
from torch import nn

from ..compat import save_config_for_hf
from ..errors import InputError
from ..files import atomic_write, write_atomically
from .checkpoint_file import mismatches, raise_on_mismatches
from .glnet import GLNet
from .official import PUBLISHED_TOP1, read_checkpoint, weights_file
from .restore import build_described, checked_arguments, checked_model_args, is_plain

__all__ = ["build_folder", "load_folder", "model_card", "save_model"]

MULTI_LABEL = "multi_label_classification"  # what transformers calls it, under `problem_type`

# Entries of `pretrained_cfg` that decide how a model is built or used, with the types that are accepted from a file.
_CFG_TYPES: dict[str, Any] = {
    "num_classes": int,
    "input_size": tuple[int, int, int],
    "pool_size": Sequence[int] | None,
    "mean": Sequence[float],
    "std": Sequence[float],
    "crop_pct": float,
    "crop_mode": str,
    "interpolation": str,
    "first_conv": str | None,
    "classifier": str | Sequence[str] | None,
    "label_names": Sequence[str] | None,
    "label_descriptions": dict[str, str] | None,
}
_TOP_LEVEL = ("num_classes", "label_names", "label_descriptions")
# Where weights would come from: not taken from a file, as they are in the folder.
_SOURCES = {"url", "file", "state_dict", "hf_hub_id", "hf_hub_filename", "source", "custom_load", "architecture"}

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
    """Write a folder for `timm.create_model("local-dir:...")` and transformers.

    The names of the classes, and whether an image may have several of them, are kept in config.json.

    Args:
        model: a GLNet that was not changed by fusing or wrapping.
        folder: where to write config.json, model.safetensors and README.md; it is made if it is missing.

    Returns:
        The model card, which is README.md.

    Raises:
        InputError: the folder would not be read as this model again.
    """
    folder = Path(folder)
    current = ("num_classes", "global_pool", "in_chans")  # what the model says of itself, whatever it was built with
    model_args = {name: value for name, value in model._model_args.items() if name not in current}
    model_args |= {"in_chans": model.in_chans, "global_pool": model.head.global_pool.pool_type}
    # safetensors takes contiguous tensors alone, and those of a channels-last model are not
    weights = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
    name = model.pretrained_cfg["architecture"]
    read = timm.create_model(name, num_classes=model.num_classes, device="meta", **model_args)
    if lines := mismatches(weights, read):
        raise InputError(
            f"These weights would not be read into {name} again ({lines[0]}): a fused, wrapped or otherwise changed "
            "model is saved by torch.save; save the folder before changing the model."
        )
    with atomic_write(folder / "model.safetensors") as part:
        safetensors.torch.save_file(weights, part)
    card = model_card(model, str(folder))
    write_atomically(folder / "README.md", card)
    with atomic_write(folder / "config.json") as part:
        save_config_for_hf(model, str(part), model_config=_labels(model), model_args=model_args)
        config = json.loads(part.read_text())
        # timm repeats the number of classes among the model's arguments; transformers passes it a second time and fails
        config.get("model_args", {}).pop("num_classes", None)
        if model.multi_label:
            config["problem_type"] = MULTI_LABEL
        part.write_text(json.dumps(config, indent=2) + "\n")
    return card


def _labels(model: GLNet) -> dict[str, Any]:
    """Return the names of the classes as timm and transformers read them, if they are those of this classifier."""
    names = model.pretrained_cfg.get("label_names")
    if not names or len(names) != model.num_classes:
        return {}
    labels: dict[str, Any] = {"label_names": list(names)}
    if descriptions := model.pretrained_cfg.get("label_descriptions"):
        labels["label_descriptions"] = dict(descriptions)
    return labels


def load_folder(folder: str | Path) -> nn.Module:
    """Load a folder of `save_model`, or one of timm's of that kind, in evaluation mode.

    It is what `timm.create_model("local-dir:...", pretrained=True)` loads, checked first: neither the network nor any
    file outside of the folder is used, whatever its config.json says.

    Args:
        folder: config.json and weights.

    Returns:
        The model; its attribute `multi_label` tells whether an image may have several classes.

    Raises:
        InputError: a file is malformed, or does not describe a model that fits the weights.
        FileNotFoundError: there is no config.json, or there are no weights.
    """
    folder = Path(folder)
    model: Any = build_folder(folder)
    path = weights_file(folder)
    weights = read_checkpoint(path)
    raise_on_mismatches(mismatches(weights, model), path, model.pretrained_cfg["architecture"])
    model.load_state_dict(weights)
    loaded: nn.Module = model.eval()
    return loaded


def build_folder(folder: str | Path) -> nn.Module:
    """Build the model of a folder with random weights; see `load_folder`."""
    path = Path(folder) / "config.json"
    if not path.is_file():
        raise FileNotFoundError(f"No model in {folder}: it has no config.json.")
    try:
        config = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} is not JSON: {error}") from error
    if not isinstance(config, dict) or not isinstance(config.get("pretrained_cfg", {}), dict):
        raise InputError(f"{path} is not the configuration of a model: expected an object with `pretrained_cfg`.")
    name, model_args = checked_model_args(config.get("architecture"), config.get("model_args") or {}, path)
    cfg = _checked_cfg(config, path)
    model: Any = build_described(name, model_args, path, pretrained_cfg=cfg)
    model.multi_label = config.get("problem_type") == MULTI_LABEL
    built: nn.Module = model
    return built


def _checked_cfg(config: dict[str, Any], path: Path) -> dict[str, Any]:
    """Return timm's description of the model without sources of weights; what is at the top of the file goes first."""
    fields = {field.name for field in dataclasses.fields(PretrainedCfg)} - _SOURCES
    written = {**config.get("pretrained_cfg", config), **{key: config[key] for key in _TOP_LEVEL if key in config}}
    cfg = {key: value for key, value in written.items() if key in fields and is_plain(value)}
    checked_arguments({key: cfg[key] for key in _CFG_TYPES if key in cfg}, _CFG_TYPES, path, "entries")
    names, classes = cfg.get("label_names"), cfg.get("num_classes", 1000)
    if classes < 0 or (names and len(names) != classes):
        raise InputError(f"{path} holds {len(names or ())} label_names for {classes} classes.")
    return cfg
