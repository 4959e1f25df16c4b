"""Objects in images: torchvision's detectors made blind to padding, scores, predictor."""

from .models import DetectorConfig
from .predictor import DetectionPredictor
from .task import Detection

__all__ = ["Detection", "DetectionPredictor", "DetectorConfig"]
