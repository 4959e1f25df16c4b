"""Reports on the predictions of a classifier, a segmentation network or a detector, of this package or of any other."""

from .predictions import BoxPredictions, ClassPredictions, PixelPredictions, Predictions, load_predictions
from .report import analyse, write_report
from .table import read_detections, read_table

__all__ = [
    "BoxPredictions",
    "ClassPredictions",
    "PixelPredictions",
    "Predictions",
    "analyse",
    "load_predictions",
    "read_detections",
    "read_table",
    "write_report",
]
