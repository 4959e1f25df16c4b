"""Object detection and instance segmentation with RetinaNet and Mask R-CNN."""

from .models import DetectorConfig
from .predictor import DetectionPredictor
from .task import Detection

__all__ = ["Detection", "DetectionPredictor", "DetectorConfig"]
