"""Loading of the GLMix authors' checkpoints: conversion of their parameter names and shapes to those of this package.

No other module contains the authors' parameter names.
"""

import os
import re
from pathlib import Path
from typing import Any

import timm
from timm.models import get_pretrained_cfg_value, resolve_pretrained_cfg
from torch import Tensor, nn

from ..errors import InputError
from .checkpoint_file import INFO, StateDict, mismatches, raise_on_mismatches, read_file, state_dict_in
from .glnet import GLNet

__all__ = [
    "OFFICIAL_VARIANTS",
    "PUBLISHED_TOP1",
    "checkpoint_filter_fn",
    "load_official",
    "read_checkpoint",
    "recognise",
    "resolve_weights",
    "weights_file",
    "weights_in",
]

# Top-1 accuracy on ImageNet-1k, in percent, as published with the paper.
PUBLISHED_TOP1: dict[str, float] = {
    "glnet_stl": 82.5,
    "glnet_stl_paramslot": 82.1,
    "glnet_4g": 83.7,
    "glnet_9g": 84.5,
    "glnet_16g": 85.0,
    "glnet_4g_tklb": 84.4,
    "glnet_9g_tklb": 85.3,
}
OFFICIAL_VARIANTS = tuple(PUBLISHED_TOP1)
PUBLISHED_AT = "https://github.com/rayleizhu/GLMix#model-card"

_BLOCK = r"^(stages\.\d+\.blocks\.\d+)\."
_RENAMES = [
    (_BLOCK + r"slot_scale$", r"\1.mixer.bridge.scale"),
    (_BLOCK + r"init_slots$", r"\1.mixer.bridge.seeds"),
    (_BLOCK + r"(?:relation_mha|mha_op)\.in_proj_(weight|bias)$", r"\1.mixer.attn.qkv.\2"),
    (_BLOCK + r"(?:relation_mha|mha_op)\.out_proj\.", r"\1.mixer.attn.proj."),
    (_BLOCK + r"feature_conv\.0\.", r"\1.mixer.local.pointwise_in."),
    (_BLOCK + r"feature_conv\.1\.", r"\1.mixer.local.depthwise."),
    (_BLOCK + r"feature_conv\.2\.", r"\1.mixer.local.pointwise_out."),
    (_BLOCK + r"mlp\.0\.", r"\1.mlp.fc1."),
    (_BLOCK + r"mlp\.1\.", r"\1.mlp.depthwise."),
    (_BLOCK + r"mlp\.[23]\.", r"\1.mlp.fc2."),  # 2 in the attention blocks of the stl models, else 3
    (r"^head\.", r"head.fc."),
    (r"^tklb_aux_head\.", r"aux_head."),
]
_PATCH_RENAMES = [
    (r"^downsample_layers\.0\.0\.", r"stem.layers.conv."),
    (r"^downsample_layers\.0\.1\.", r"stem.layers.norm."),
    (r"^downsample_layers\.(\d)\.0\.", r"stages.\1.downsample.norm."),
    (r"^downsample_layers\.(\d)\.1\.", r"stages.\1.downsample.conv."),
]
_CONV_RENAMES = [
    (r"^downsample_layers\.0\.1\.", r"stem.layers.conv1."),
    (r"^downsample_layers\.0\.2\.", r"stem.layers.norm1."),
    (r"^downsample_layers\.0\.4\.", r"stem.layers.conv2."),
    (r"^downsample_layers\.0\.5\.", r"stem.layers.norm2."),
    (r"^downsample_layers\.(\d)\.0\.", r"stages.\1.downsample.conv."),
    (r"^downsample_layers\.(\d)\.1\.", r"stages.\1.downsample.norm."),
]


def is_official(state_dict: StateDict) -> bool:
    """Return whether a state dict has the authors' parameter names."""
    return any(name.startswith("downsample_layers.") for name in state_dict)


def to_glmix_names(state_dict: StateDict) -> StateDict:
    """Rename and reshape the authors' tensors: scales from () to (1,), layer scales from (1, C, 1, 1) to (C,)."""
    renames = (_PATCH_RENAMES if "downsample_layers.0.0.weight" in state_dict else _CONV_RENAMES) + _RENAMES
    renamed = {}
    for name, tensor in state_dict.items():
        for pattern, replacement in renames:
            name, found = re.subn(pattern, replacement, name)
            if found:
                break
        if name.endswith((".bridge.scale", ".gamma")):
            tensor = tensor.reshape(-1)
        if re.search(r"\.mlp\.fc[12]\.weight$", name) and tensor.ndim == 2:
            tensor = tensor[:, :, None, None]
        renamed[name] = tensor
    return renamed


def read_checkpoint(path: str | os.PathLike[str], use_ema: bool | None = None) -> StateDict:
    """Read the weights in a `.pth` or safetensors file, without running any code in it.

    Args:
        path: a file with a state dict, or a dict with a state dict under `model`, `model_ema`, `state_dict` or
            `state_dict_ema`.
        use_ema: use the EMA weights of a file that has raw and EMA weights. None selects those for which the authors
            report results: EMA weights for glnet_16g, else raw weights.

    Returns:
        The state dict with the parameter names of this package.

    Raises:
        InputError: the file is malformed, contains no weights, or is a checkpoint of `glmix fit`.
        FileNotFoundError: the file does not exist.
    """
    path = Path(path)
    checkpoint = read_file(path)
    if INFO in checkpoint and not isinstance(checkpoint[INFO], Tensor):
        raise InputError(
            f"{path} is a checkpoint of `glmix fit`: load it with glmix.load, or convert it to a folder for timm "
            f"with `glmix convert`."
        )
    return weights_in(checkpoint, path, use_ema)


def weights_in(checkpoint: dict[str, Any], path: Path, use_ema: bool | None = None) -> StateDict:
    """Return the state dict in the result of `read_file`; see `read_checkpoint`."""
    raw = _entry(checkpoint, "model", "state_dict")
    ema = _entry(checkpoint, "model_ema", "state_dict_ema")
    if raw is None and ema is None:
        raw = checkpoint
    candidates = [_with_glmix_names(state_dict_in(weights, path)) for weights in (raw, ema) if weights is not None]
    if len(candidates) == 1:
        return candidates[0]
    raw, ema = candidates
    if use_ema is None:
        use_ema = _looks_like_16g(raw)
    return ema if use_ema else raw


def _entry(checkpoint: dict[str, Any], *keys: str) -> dict[str, Any] | None:
    return next((checkpoint[key] for key in keys if isinstance(checkpoint.get(key), dict) and checkpoint[key]), None)


def _looks_like_16g(state_dict: StateDict) -> bool:
    stem = state_dict.get("stem.layers.conv2.weight")
    return stem is not None and stem.shape[:1] == (128,)


def _with_glmix_names(state_dict: StateDict) -> StateDict:
    return to_glmix_names(state_dict) if is_official(state_dict) else state_dict


def _skeleton(variant: str, state_dict: StateDict) -> nn.Module:
    """Return the variant on the meta device, with the numbers of classes and channels of the checkpoint."""
    return timm.create_model(variant, device="meta", **_sizes(state_dict, variant))


def _sizes(state_dict: StateDict, variant: str) -> dict[str, int]:
    """Return the numbers of classes and channels according to the shapes of the classifier and the stem."""
    sizes = {}
    name = get_pretrained_cfg_value(variant, "classifier")
    classifier = state_dict.get(f"{name if isinstance(name, str) else 'head.fc'}.weight")
    if classifier is not None and classifier.ndim == 2:
        sizes["num_classes"] = classifier.shape[0]
    for stem in ("stem.layers.conv.weight", "stem.layers.conv1.weight"):
        if stem in state_dict and state_dict[stem].ndim == 4 and state_dict[stem].shape[1] > 0:
            sizes["in_chans"] = state_dict[stem].shape[1]
    return sizes


def recognise(state_dict: StateDict, source: object = "The checkpoint") -> str:
    """Return the official variant whose parameters have the same names and shapes as a state dict.

    Args:
        state_dict: the weights.
        source: the file, for messages.

    Raises:
        InputError: no variant fits.
    """
    differences = {}
    for variant in OFFICIAL_VARIANTS:
        differences[variant] = mismatches(state_dict, _skeleton(variant, state_dict))
        if not differences[variant]:
            return variant
    variant = min(differences, key=lambda name: len(differences[name]))
    raise_on_mismatches(differences[variant], source, f"any official model; the closest one is {variant}")
    return variant


def load_official(
    path: str | os.PathLike[str], variant: str | None = None, *, use_ema: bool | None = None, **kwargs: Any
) -> GLNet:
    """Create a model with the weights of a file of the GLMix authors, or of a file written by `glmix convert`.

    Args:
        path: the file.
        variant: the model name; None to recognise it from the names and shapes of the weights.
        use_ema: use the EMA weights of a file that has raw and EMA weights; see `read_checkpoint`.
        kwargs: arguments of `timm.create_model`, such as `drop_path_rate` or `slot_grid`.

    Raises:
        InputError: the variant is unknown, or the weights do not fit it.
    """
    if variant is not None and not timm.is_model(variant):
        raise InputError(
            f"{variant} is not a registered model of timm; the official ones are {', '.join(OFFICIAL_VARIANTS)}."
        )
    state_dict = read_checkpoint(path, use_ema)
    variant = variant or recognise(state_dict, path)
    model: GLNet = timm.create_model(variant, **{**_sizes(state_dict, variant), **kwargs})
    raise_on_mismatches(mismatches(state_dict, model), path, variant)
    model.load_state_dict(state_dict)
    return model


def checkpoint_filter_fn(state_dict: StateDict, model: GLNet) -> StateDict:
    """Convert the parameter names of a checkpoint and check that the weights fit; timm calls this before loading.

    Classifiers with another number of classes and stems with another number of channels are not checked, because timm
    adapts them.
    """
    state_dict = _with_glmix_names(state_dict)
    cfg = model.pretrained_cfg
    classifiers = cfg.get("classifier") or ()
    replaced = []
    stem = cfg["first_conv"] + ".weight"
    if stem in state_dict and _differ_in_channels_only(state_dict[stem], model.get_parameter(stem)):
        replaced.append(stem)
    if model.num_classes != cfg.get("num_classes"):
        replaced += [classifiers] if isinstance(classifiers, str) else classifiers
    raise_on_mismatches(
        mismatches(state_dict, model, tuple(replaced)), cfg.get("file") or "The checkpoint", cfg["architecture"]
    )
    return state_dict


def _differ_in_channels_only(found: Tensor, own: Tensor) -> bool:
    """Return whether two stem weights (C, in_chans, h, w) differ only in their number of image channels."""
    if found.ndim != 4 or found.shape[1] == own.shape[1] or not found.is_floating_point():
        return False
    return (found.shape[0], *found.shape[2:]) == (own.shape[0], *own.shape[2:])


def resolve_weights(variant: str, pretrained_cfg: Any, overlay: dict[str, Any] | None) -> dict[str, Any]:
    """Return an overlay of timm's config with the weights for `pretrained=True`.

    Files and folders are read here instead of by timm, because timm cannot select between the raw and EMA weights of
    the authors' files, and older versions of timm unpickle files unsafely.

    Raises:
        InputError: there are no weights.
    """
    cfg = resolve_pretrained_cfg(variant, pretrained_cfg, overlay)
    local = cfg.source == "local-dir"  # ignore a url or hub name in its config.json
    if not local and (cfg.state_dict or cfg.url or cfg.hf_hub_id):
        return overlay or {}
    if not cfg.file:
        raise InputError(_no_weights(variant))
    path = Path(cfg.file)
    state_dict = read_checkpoint(weights_file(path) if path.is_dir() else path)
    return {**(overlay or {}), "state_dict": state_dict, "source": None}


def weights_file(folder: Path) -> Path:
    """Return the weight file in a folder."""
    for pattern in ("model.safetensors", "*.safetensors", "pytorch_model.bin", "*.bin", "*.pth"):
        found = sorted(folder.glob(pattern))
        if found:
            return found[0]
    raise FileNotFoundError(f"No weights in {folder}: expected a .safetensors, .bin or .pth file.")


def _no_weights(variant: str) -> str:
    if variant not in OFFICIAL_VARIANTS:
        return f"There are no published weights for {variant}. Create it with pretrained=False and train it."
    return (
        f"The weights of {variant} cannot be downloaded automatically. The authors publish them at {PUBLISHED_AT}: "
        f"download the file by hand and pass it as pretrained_cfg_overlay=dict(file='{variant}.pth'), or convert it "
        f"with `glmix convert {variant}.pth {variant}` and create 'local-dir:{variant}'."
    )
