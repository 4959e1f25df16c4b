"""From a model to what is shipped. Importing it needs torch and timm alone."""

from .export import ExportReport, export_model, export_targets
from .export_int8 import Calibration, Int8Report
from .export_run import Exported, load_exported
from .fuse import fuse

__all__ = [
    "Calibration",
    "ExportReport",
    "Exported",
    "Int8Report",
    "export_model",
    "export_targets",
    "fuse",
    "load_exported",
]
