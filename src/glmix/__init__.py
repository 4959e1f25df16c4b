"""GLNet: vision backbones with parallel convolutions on the pixel grid and self-attention on semantic slots.

Importing this package registers the models with timm:

    import glmix, timm

    model = timm.create_model("glnet_4g")
"""

from ._version import __version__
from .deploy import fuse, optimize_for_inference
from .errors import InputError
from .layers import optimize_for_training
from .models import GLNet, GLNetTokenLabel, Pyramid, load_official, save_model, set_slot_grid
from .weights import load, save

__all__ = [
    "GLNet",
    "GLNetTokenLabel",
    "InputError",
    "Pyramid",
    "__version__",
    "fuse",
    "load",
    "load_official",
    "optimize_for_inference",
    "optimize_for_training",
    "save",
    "save_model",
    "set_slot_grid",
]
