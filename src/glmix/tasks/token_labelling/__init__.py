"""Token labelling: classification with dense labels on a coarse grid."""

from .task import TokenLabelling

__all__ = ["TokenLabelling"]
