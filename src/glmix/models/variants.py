"""Every named model: only the numbers that differ."""

from typing import Any

from timm.models import build_model_with_cfg, generate_default_cfgs, register_model

from .glnet import GLNet
from .official import checkpoint_filter_fn, resolve_weights
from .token_label import GLNetTokenLabel

__all__ = ["default_cfgs"]


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


# No entry has a url: the authors' files are not hosted for timm, and this project hosts none. `official.py` reads them.
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


_NOT_OF_THE_MODEL = ("device", "dtype", "cache_dir", "pretrained_cfg", "pretrained_model_args")


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
    # what newer versions of timm note down by themselves, so that a saved model can be built again
    model._model_args = {name: value for name, value in kwargs.items() if name not in _NOT_OF_THE_MODEL}
    for module in model.modules():  # the weights are in the model now: a config need not carry them as well
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
    """The plain one, shaped like Swin-T: patch stem, no position convolution, soft clustering from pooled seeds."""
    return _create("glnet_stl", pretrained, **dict(_STL, **kwargs))


@register_model
def glnet_stl_paramslot(pretrained: bool = False, **kwargs: Any) -> GLNet:
    """glnet_stl with learned seeds."""
    return _create("glnet_stl_paramslot", pretrained, **dict({**_STL, "seeds": "learned"}, **kwargs))


@register_model
def glnet_4g(pretrained: bool = False, **kwargs: Any) -> GLNet:
    """27M parameters: what GLNet's own defaults describe."""
    return _create("glnet_4g", pretrained, **kwargs)


@register_model
def glnet_9g(pretrained: bool = False, **kwargs: Any) -> GLNet:
    """60M parameters: glnet_4g, half as wide again."""
    return _create("glnet_9g", pretrained, **dict({"widths": (96, 192, 384, 768)}, **kwargs))


@register_model
def glnet_16g(pretrained: bool = False, **kwargs: Any) -> GLNet:
    """106M parameters: glnet_4g, twice as wide, with layer scales."""
    model_args = {"widths": (128, 256, 512, 1024), "layer_scale": 1e-4}
    return _create("glnet_16g", pretrained, **dict(model_args, **kwargs))


@register_model
def glnet_4g_tklb(pretrained: bool = False, **kwargs: Any) -> GLNet:
    """glnet_4g for token labelling."""
    return _create("glnet_4g_tklb", pretrained, GLNetTokenLabel, **kwargs)


@register_model
def glnet_9g_tklb(pretrained: bool = False, **kwargs: Any) -> GLNet:
    """glnet_9g for token labelling."""
    return _create("glnet_9g_tklb", pretrained, GLNetTokenLabel, **dict({"widths": (96, 192, 384, 768)}, **kwargs))


@register_model
def glnet_nano(pretrained: bool = False, **kwargs: Any) -> GLNet:
    """5M parameters, under 1 GMAC, for small devices: glnet_4g at half its widths and two thirds of its depths."""
    model_args = {"widths": (32, 64, 128, 256), "depths": (3, 3, 12, 3), "slot_scale": 8.0}
    return _create("glnet_nano", pretrained, **dict(model_args, **kwargs))


@register_model
def test_glnet(pretrained: bool = False, **kwargs: Any) -> GLNet:
    """A tiny one with every kind of block, for test suites and small images."""
    model_args = {
        "widths": (32, 48, 64, 96),
        "depths": (1, 1, 2, 1),
        "mlp_ratio": 2.0,
        "head_dim": 16,
        "num_slots": 16,
        "slot_scale": 8.0,
    }
    return _create("test_glnet", pretrained, **dict(model_args, **kwargs))
