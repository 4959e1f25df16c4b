"""Built-in synthetic data set for all tasks: procedural images with exact masks, boxes and labels."""

from ..core.splits import Split
from .baselines import baseline_accuracies
from .dataset import SceneDataset, Target, collate_instances
from .draw import LabelledImage, Labelling, Scene, SceneConfig, draw_scene
from .patterns import SHAPES, TEXTURES
from .sheet import class_colours, contact_sheet
from .write import Layout, atomic_folder, write_layout, write_scenes

__all__ = [
    "SHAPES",
    "TEXTURES",
    "LabelledImage",
    "Labelling",
    "Layout",
    "Scene",
    "SceneConfig",
    "SceneDataset",
    "Split",
    "Target",
    "atomic_folder",
    "baseline_accuracies",
    "class_colours",
    "collate_instances",
    "contact_sheet",
    "draw_scene",
    "write_layout",
    "write_scenes",
]
