"""Deployment: fusion, fast inference and export. Importing this package needs only torch and timm."""

from .export import Calibration, Exported, ExportReport, Int8Report, export_model, export_targets, load_exported
from .fuse import fuse
from .optimize import can_compile, fastest_dtype, optimize_for_inference

__all__ = [
    "Calibration",
    "ExportReport",
    "Exported",
    "Int8Report",
    "can_compile",
    "export_model",
    "export_targets",
    "fastest_dtype",
    "fuse",
    "load_exported",
    "optimize_for_inference",
]
