"""Weakly supervised semantic segmentation from image labels: CAMs, SlotCut, pseudo masks and a segmenter."""
