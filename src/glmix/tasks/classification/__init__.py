"""Image classification with one label or several labels per image."""

from .task import Classification, MixConfig

__all__ = ["Classification", "MixConfig"]
