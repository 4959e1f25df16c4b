"""Comparison of weak segmentation methods on scenes with several random seeds."""
