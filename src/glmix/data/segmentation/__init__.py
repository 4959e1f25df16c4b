"""Semantic segmentation data: files, transforms and data modules, which need the extra `train`."""
