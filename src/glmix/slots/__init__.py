"""Inspection of slots: maps, measures, figures and pages. Importing this package needs torch and timm only."""

from .explanation import ExplainedModel, explain
from .grouping.evaluation import GroupingData, Report, discover, score
from .maps import BlockMaps, blocks_with_slots, chosen_blocks, last_blocks, recording, slot_maps

__all__ = [
    "BlockMaps",
    "ExplainedModel",
    "GroupingData",
    "Report",
    "blocks_with_slots",
    "chosen_blocks",
    "discover",
    "explain",
    "last_blocks",
    "recording",
    "score",
    "slot_maps",
]
