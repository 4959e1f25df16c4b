"""Layers of GLNet. They depend on no model, task or data set."""

from .attention import ShortAttention, is_plain_attention
from .block import Block
from .bridge import Bridge, Clustering, KMeansBridge, Seeds, SoftBridge, StaticBridge, make_bridge, slot_grid_of
from .compact import CompactSoftBridge
from .depthwise import DepthwiseConv2d
from .kernels import has_cpp_compiler
from .mixer import GLMix, GridAttention, LocalBranch, self_attention
from .mlp import ConvMlp
from .optimize import optimize_for_training
from .padding import apply_mask, convolve
from .pointwise import PointwiseConv2d
from .residual import ResidualConv2d, without_identity
from .small_maps import apply_layer, apply_layers
from .stem import Stem, StemStyle, TransitionOrder, transition

__all__ = [
    "Block",
    "Bridge",
    "Clustering",
    "CompactSoftBridge",
    "ConvMlp",
    "DepthwiseConv2d",
    "GLMix",
    "GridAttention",
    "KMeansBridge",
    "LocalBranch",
    "PointwiseConv2d",
    "ResidualConv2d",
    "Seeds",
    "ShortAttention",
    "SoftBridge",
    "StaticBridge",
    "Stem",
    "StemStyle",
    "TransitionOrder",
    "apply_layer",
    "apply_layers",
    "convolve",
    "has_cpp_compiler",
    "apply_mask",
    "is_plain_attention",
    "make_bridge",
    "optimize_for_training",
    "self_attention",
    "slot_grid_of",
    "transition",
    "without_identity",
]
