"""Models and their weights. Importing this package registers the models with timm."""

from . import variants  # registers the models
from .glnet import GLNet
from .hub import load_folder, model_card, save_model
from .official import OFFICIAL_VARIANTS, PUBLISHED_TOP1, load_official, read_checkpoint
from .pyramid import Pyramid
from .slot_grid import set_slot_grid
from .token_label import GLNetTokenLabel
from .variants import MODEL_SIZES

MODEL_NAMES: tuple[str, ...] = tuple(variants.default_cfgs)

__all__ = [
    "MODEL_NAMES",
    "MODEL_SIZES",
    "OFFICIAL_VARIANTS",
    "PUBLISHED_TOP1",
    "GLNet",
    "GLNetTokenLabel",
    "Pyramid",
    "load_folder",
    "load_official",
    "model_card",
    "read_checkpoint",
    "save_model",
    "set_slot_grid",
]
