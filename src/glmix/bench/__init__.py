"""What a model costs."""

from .macs import count_macs

__all__ = ["count_macs"]
