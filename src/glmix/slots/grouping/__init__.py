"""Evaluation of slots as segmentations, in comparison with controls."""
