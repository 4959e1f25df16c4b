"""From a model to a file that other programs run, checked against the model before it is there."""

from .int8 import Calibration, Int8Report
from .model import ExportReport, export_model, export_targets
from .run import Exported, load_exported

__all__ = [
    "Calibration",
    "ExportReport",
    "Exported",
    "Int8Report",
    "export_model",
    "export_targets",
    "load_exported",
]
