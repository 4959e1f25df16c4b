"""Semantic segmentation: network, inference at any size, scores, predictor."""

from .inference import Inference
from .predictor import SegmentationPredictor
from .task import Segmentation

__all__ = ["Inference", "Segmentation", "SegmentationPredictor"]
