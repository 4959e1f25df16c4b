"""The registered models: the hyperparameters that differ from the defaults of GLNet."""

from typing import Any

from timm.models import build_model_with_cfg, generate_default_cfgs, register_model

from .glnet import GLNet
from .official import checkpoint_filter_fn, resolve_weights
from .token_label import GLNetTokenLabel

__all__ = ["MODEL_SIZES", "default_cfgs"]


def _cfg(**kwargs: Any) -> dict[str, Any]:
    return {
        "num_classes": 1000,
        "input_size": (3, 224, 224),
        "pool_size": (7, 7),
        "crop_pct": 0.9,
        "interpolation": "bicubic",
        "mean": (0.485, 0.456, 0.406),
        "std": (0.229, 0.224, 0.225),
        "first_conv": "stem.layers.conv1",
        "classifier": "head.fc",
        "license": "mit",
        "paper_ids": "arXiv:2411.14429",
        "paper_name": "Revisiting the Integration of Convolution and Attention for Vision Backbone",
        "origin_url": "https://github.com/rayleizhu/GLMix",
        **kwargs,
    }


# No entry has a url, because neither the authors nor this project host weights for timm; see `official.py`.
_PATCH_STEM = {"first_conv": "stem.layers.conv"}
_TOKEN_LABEL = {"classifier": ("head.fc", "aux_head")}
default_cfgs = generate_default_cfgs(
    {
        "glnet_stl.in1k": _cfg(**_PATCH_STEM),
        "glnet_stl_paramslot.in1k": _cfg(**_PATCH_STEM),
        "glnet_4g.in1k": _cfg(),
        "glnet_9g.in1k": _cfg(),
        "glnet_16g.in1k": _cfg(),
        "glnet_4g_tklb.in1k": _cfg(**_TOKEN_LABEL),
        "glnet_9g_tklb.in1k": _cfg(**_TOKEN_LABEL),
        "glnet_nano.untrained": _cfg(),
        "test_glnet.untrained": _cfg(input_size=(3, 160, 160), pool_size=(5, 5), crop_pct=0.95),
    }
)

# Parameters, and multiply-accumulates for one image of the default size, as counted by tests/bench/test_macs.py.
MODEL_SIZES: dict[str, tuple[int, int]] = {
    "glnet_stl": (30_296_786, 4_364_856_576),
    "glnet_stl_paramslot": (30_481_106, 4_363_501_824),
    "glnet_4g": (27_001_593, 4_507_486_720),
    "glnet_9g": (60_010_617, 9_626_201_856),
    "glnet_16g": (106_055_161, 16_654_898_176),
    "glnet_4g_tklb": (27_514_593, 4_532_574_720),
    "glnet_9g_tklb": (60_779_617, 9_663_833_856),
    "glnet_nano": (5_128_564, 929_644_800),
    "test_glnet": (397_003, 54_017_664),
}

_NOT_MODEL_ARGS = ("device", "dtype", "cache_dir", "pretrained_cfg", "pretrained_model_args")


def _create(variant: str, pretrained: bool, model_cls: type[GLNet] = GLNet, **kwargs: Any) -> GLNet:
    overlay = kwargs.pop("pretrained_cfg_overlay", None)
    if pretrained:
        overlay = resolve_weights(variant, kwargs.get("pretrained_cfg"), overlay)
    model: GLNet = build_model_with_cfg(
        model_cls,
        variant,
        pretrained,
        pretrained_cfg_overlay=overlay,
        pretrained_filter_fn=checkpoint_filter_fn,
        feature_cfg={"out_indices": (0, 1, 2, 3), "flatten_sequential": True},
        **kwargs,
    )
    # newer versions of timm record this themselves; it is needed to rebuild a saved model
    model._model_args = {name: value for name, value in kwargs.items() if name not in _NOT_MODEL_ARGS}
    for module in model.modules():  # remove the copy of the weights from the config
        getattr(module, "pretrained_cfg", {}).pop("state_dict", None)
    return model


_STL = {
    "widths": (96, 192, 384, 768),
    "depths": (2, 2, 6, 2),
    "mlp_ratio": 4.0,
    "mixers": ("glmix", "glmix", "glmix", "attn"),
    "stem": "patch",
    "transition_order": "norm_conv",
    "transition_kernel": 2,
    "pos_conv": False,
    "mlp_conv": False,
}


@register_model
def glnet_stl(pretrained: bool = False, **kwargs: Any) -> GLNet:
    """The basic variant with the layout of Swin-T: patch stem, no position convolution, pooled seeds."""
    return _create("glnet_stl", pretrained, **dict(_STL, **kwargs))


@register_model
def glnet_stl_paramslot(pretrained: bool = False, **kwargs: Any) -> GLNet:
    """glnet_stl with learned seeds."""
    return _create("glnet_stl_paramslot", pretrained, **dict({**_STL, "seeds": "learned"}, **kwargs))


@register_model
def glnet_4g(pretrained: bool = False, **kwargs: Any) -> GLNet:
    """27M parameters; the defaults of GLNet."""
    return _create("glnet_4g", pretrained, **kwargs)


@register_model
def glnet_9g(pretrained: bool = False, **kwargs: Any) -> GLNet:
    """60M parameters; glnet_4g with 1.5 times the width."""
    return _create("glnet_9g", pretrained, **dict({"widths": (96, 192, 384, 768)}, **kwargs))


@register_model
def glnet_16g(pretrained: bool = False, **kwargs: Any) -> GLNet:
    """106M parameters; glnet_4g with twice the width and layer scales."""
    model_args = {"widths": (128, 256, 512, 1024), "layer_scale": 1e-4}
    return _create("glnet_16g", pretrained, **dict(model_args, **kwargs))


@register_model
def glnet_4g_tklb(pretrained: bool = False, **kwargs: Any) -> GLNet:
    """glnet_4g with an auxiliary head for token labelling."""
    return _create("glnet_4g_tklb", pretrained, GLNetTokenLabel, **kwargs)


@register_model
def glnet_9g_tklb(pretrained: bool = False, **kwargs: Any) -> GLNet:
    """glnet_9g with an auxiliary head for token labelling."""
    return _create("glnet_9g_tklb", pretrained, GLNetTokenLabel, **dict({"widths": (96, 192, 384, 768)}, **kwargs))


@register_model
def glnet_nano(pretrained: bool = False, **kwargs: Any) -> GLNet:
    """5M parameters, less than 1 GMAC, for small devices; glnet_4g with half the widths and about 2/3 of the depths."""
    model_args = {"widths": (32, 64, 128, 256), "depths": (3, 3, 12, 3), "slot_scale": 8.0}
    return _create("glnet_nano", pretrained, **dict(model_args, **kwargs))


@register_model
def test_glnet(pretrained: bool = False, **kwargs: Any) -> GLNet:
    """A tiny model with all block types, for tests and small images."""
    model_args = {
        "widths": (32, 48, 64, 96),
        "depths": (1, 1, 2, 1),
        "mlp_ratio": 2.0,
        "head_dim": 16,
        "num_slots": 16,
        "slot_scale": 8.0,
    }
    return _create("test_glnet", pretrained, **dict(model_args, **kwargs))
