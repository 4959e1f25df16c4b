"""Built-in synthetic data set for all tasks: procedural images with exact masks, boxes and labels."""

from .baselines import baseline_accuracies
from .dataset import SceneDataset, Target, collate_instances
from .draw import Labelling, Scene, SceneConfig, Split, draw_scene
from .patterns import SHAPES, TEXTURES
from .sheet import class_colours, contact_sheet
from .write import Layout, write_scenes

__all__ = [
    "SHAPES",
    "TEXTURES",
    "Labelling",
    "Layout",
    "Scene",
    "SceneConfig",
    "SceneDataset",
    "Split",
    "Target",
    "baseline_accuracies",
    "class_colours",
    "collate_instances",
    "contact_sheet",
    "draw_scene",
    "write_scenes",
]
