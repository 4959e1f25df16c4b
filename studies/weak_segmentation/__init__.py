"""Weak segmentation on scenes over several seeds: methods compared, and segmenters trained on their masks."""
