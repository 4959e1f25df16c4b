"""What slots show: maps, measures and figures. Importing it needs torch and timm alone."""

from .maps import BlockMaps, blocks_with_slots, chosen_blocks, last_blocks, recording, slot_maps

__all__ = ["BlockMaps", "blocks_with_slots", "chosen_blocks", "last_blocks", "recording", "slot_maps"]
