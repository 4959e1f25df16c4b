"""Saving and loading of model folders for timm and transformers: config.json, model.safetensors and a model card."""

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

__all__ = ["build_folder", "load_folder", "model_card", "read_config", "save_model"]

CONFIG = "config.json"
WEIGHTS = "model.safetensors"
MULTI_LABEL = "multi_label_classification"  # the value of `problem_type` in transformers

# Entries of `pretrained_cfg` that affect how a model is built or used, with the types that are accepted from a file.
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
# Sources of weights. They are not accepted from a file, because the weights are in the folder.
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

A GLNet image classifier with {parameters:.1f}M parameters and {classes} classes, for images of {width} x {height}
pixels with {in_chans} channels. GLNet combines two parallel branches: convolutions on a grid of pixels, and
self-attention among a small set of semantic slots.
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
    """Return the model card in Markdown: a description of the model and code that loads it from `folder`."""
    cfg = model.pretrained_cfg
    name = cfg["architecture"]
    accuracy = ""
    if name in PUBLISHED_TOP1 and model.num_classes == 1000:
        accuracy = (
            f"\nThe authors publish an ImageNet-1k top-1 accuracy of {PUBLISHED_TOP1[name]} % for their weights of "
            "this model. The conversion does not change the weights.\n"
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
    """Save a model to a folder for `timm.create_model("local-dir:...")` and transformers.

    config.json contains the class names and whether the model is a multi-label classifier.

    Args:
        model: a GLNet that is not fused or wrapped.
        folder: the output folder for config.json, model.safetensors and README.md; it is created if needed.

    Returns:
        The model card, which is also written to README.md.

    Raises:
        InputError: the saved weights could not be loaded again.
    """
    folder = Path(folder)
    current = ("num_classes", "global_pool", "in_chans")  # may have changed since the model was built
    model_args = {name: value for name, value in model._model_args.items() if name not in current}
    model_args |= {"in_chans": model.in_chans, "global_pool": model.head.global_pool.pool_type}
    # safetensors needs contiguous tensors, and those of a channels-last model are not
    weights = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
    name = model.pretrained_cfg["architecture"]
    skeleton = timm.create_model(name, num_classes=model.num_classes, device="meta", **model_args)
    if lines := mismatches(weights, skeleton):
        raise InputError(
            f"The saved weights could not be loaded into {name} again ({lines[0]}). Save the folder before fusing, "
            "wrapping or changing the model, or save the changed model with torch.save."
        )
    with atomic_write(folder / WEIGHTS) as part:
        safetensors.torch.save_file(weights, part)
    card = model_card(model, str(folder))
    write_atomically(folder / "README.md", card)
    with atomic_write(folder / CONFIG) as part:
        save_config_for_hf(model, part, model_config=_labels(model), model_args=model_args)
        config = json.loads(part.read_text())
        # timm also writes num_classes to the model arguments; transformers then passes it twice and fails
        config.get("model_args", {}).pop("num_classes", None)
        if model.multi_label:
            config["problem_type"] = MULTI_LABEL
            config["threshold"] = model.threshold
        part.write_text(json.dumps(config, indent=2) + "\n")
    return card


def _labels(model: GLNet) -> dict[str, Any]:
    """Return the class names in the format of timm and transformers, if there is one per class of this classifier."""
    names = model.pretrained_cfg.get("label_names")
    if not names or len(names) != model.num_classes:
        return {}
    labels: dict[str, Any] = {"label_names": list(names)}
    if descriptions := model.pretrained_cfg.get("label_descriptions"):
        labels["label_descriptions"] = dict(descriptions)
    return labels


def load_folder(folder: str | Path) -> nn.Module:
    """Load a model folder written by `save_model` or by timm, in evaluation mode.

    The result is the same as that of `timm.create_model("local-dir:...", pretrained=True)`, but the folder is checked
    first: regardless of config.json, there is no network access and no file outside of the folder is read.

    Args:
        folder: a folder with config.json and weights.

    Returns:
        The model. Its attribute `multi_label` is true for multi-label classifiers, and `threshold` is the smallest
        probability of their predicted classes.

    Raises:
        InputError: a file is malformed, or the weights do not fit the model in config.json.
        FileNotFoundError: there is no config.json or no weights.
    """
    folder = Path(folder)
    model: Any = build_folder(folder)
    path = weights_file(folder)
    weights = read_checkpoint(path)
    raise_on_mismatches(mismatches(weights, model), path, model.pretrained_cfg["architecture"])
    model.load_state_dict(weights)
    loaded: nn.Module = model.eval()
    return loaded


def read_config(folder: str | Path) -> dict[str, Any]:
    """Return the content of config.json in a model folder, unchecked.

    Raises:
        InputError: the file is not a JSON object.
        FileNotFoundError: there is no config.json.
    """
    path = Path(folder) / CONFIG
    if not path.is_file():
        raise FileNotFoundError(f"There is no model in {folder}: {CONFIG} is missing.")
    try:
        config = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} is not JSON: {error}") from error
    if not isinstance(config, dict):
        raise InputError(f"{path} is not a model configuration: expected an object with `pretrained_cfg`.")
    return config


def build_folder(folder: str | Path) -> nn.Module:
    """Build the model of a folder with random weights; see `load_folder` for arguments and exceptions."""
    path = Path(folder) / CONFIG
    config = read_config(folder)
    if not isinstance(config.get("pretrained_cfg", {}), dict):
        raise InputError(f"{path} is not a model configuration: expected an object with `pretrained_cfg`.")
    name, model_args = checked_model_args(config.get("architecture"), config.get("model_args") or {}, path)
    cfg = _checked_cfg(config, path)
    model: Any = build_described(name, model_args, path, pretrained_cfg=cfg)
    model.multi_label = config.get("problem_type") == MULTI_LABEL
    checked_arguments({"threshold": config.get("threshold", 0.5)}, {"threshold": float}, path, "entries")
    model.threshold = float(config.get("threshold", 0.5))
    built: nn.Module = model
    return built


def _checked_cfg(config: dict[str, Any], path: Path) -> dict[str, Any]:
    """Return the checked `pretrained_cfg` without sources of weights; entries at the top level take precedence."""
    fields = {field.name for field in dataclasses.fields(PretrainedCfg)} - _SOURCES
    written = {**config.get("pretrained_cfg", config), **{key: config[key] for key in _TOP_LEVEL if key in config}}
    cfg = {key: value for key, value in written.items() if key in fields and is_plain(value)}
    checked_arguments({key: cfg[key] for key in _CFG_TYPES if key in cfg}, _CFG_TYPES, path, "entries")
    names, classes = cfg.get("label_names"), cfg.get("num_classes", 1000)
    if classes < 0 or (names and len(names) != classes):
        raise InputError(f"{path} contains {len(names or ())} label_names for {classes} classes.")
    return cfg
