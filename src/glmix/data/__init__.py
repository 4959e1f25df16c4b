"""Data sets and their loaders: nothing here knows a layer, a model or a task."""

from .scenes import Scene, SceneConfig, SceneDataset, collate_instances, draw_scene, write_scenes

__all__ = ["Scene", "SceneConfig", "SceneDataset", "collate_instances", "draw_scene", "write_scenes"]
