"""Inspection of slots: maps, measures, figures and pages. Importing this package needs torch and timm only."""

from .explanation import ExplainedModel, explain
from .maps import BlockMaps, blocks_with_slots, chosen_blocks, last_blocks, recording, slot_maps

__all__ = [
    "BlockMaps",
    "ExplainedModel",
    "blocks_with_slots",
    "chosen_blocks",
    "explain",
    "last_blocks",
    "recording",
    "slot_maps",
]
