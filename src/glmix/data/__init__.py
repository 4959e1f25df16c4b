"""Data sets and data loaders. This package does not depend on layers, models or tasks."""

from .scenes import Scene, SceneConfig, SceneDataset, collate_instances, draw_scene, write_scenes

__all__ = ["Scene", "SceneConfig", "SceneDataset", "collate_instances", "draw_scene", "write_scenes"]
