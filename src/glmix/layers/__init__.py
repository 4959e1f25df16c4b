"""Layers of GLNet. They depend on no model, task or data set."""

from .block import Block
from .bridge import Bridge, Clustering, KMeansBridge, Seeds, SoftBridge, StaticBridge, make_bridge, slot_grid_of
from .mixer import GLMix, GridAttention, LocalBranch, self_attention
from .mlp import ConvMlp
from .padding import convolve, hide
from .residual import ResidualConv2d, without_identity
from .small_maps import apply_layer, apply_layers
from .stem import Stem, StemStyle, TransitionOrder, transition

__all__ = [
    "Block",
    "Bridge",
    "Clustering",
    "ConvMlp",
    "GLMix",
    "GridAttention",
    "KMeansBridge",
    "LocalBranch",
    "ResidualConv2d",
    "Seeds",
    "SoftBridge",
    "StaticBridge",
    "Stem",
    "StemStyle",
    "TransitionOrder",
    "apply_layer",
    "apply_layers",
    "convolve",
    "hide",
    "make_bridge",
    "self_attention",
    "slot_grid_of",
    "transition",
    "without_identity",
]
