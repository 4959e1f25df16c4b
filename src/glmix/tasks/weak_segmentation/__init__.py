"""Semantic segmentation from image labels: class activation maps, SlotCut, pseudo masks and a segmenter."""
