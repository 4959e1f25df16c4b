"""Semantic segmentation: network, training, inference, metrics and predictor."""

from .inference import Inference
from .predictor import LabelMap, SegmentationPredictor
from .task import Segmentation

__all__ = ["Inference", "LabelMap", "Segmentation", "SegmentationPredictor"]
