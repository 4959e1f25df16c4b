"""Export of models to ONNX, torch.export and OpenVINO, with a check of the file against the model."""

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
