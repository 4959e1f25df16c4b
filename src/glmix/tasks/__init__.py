"""Lightning modules for classification, token labelling, segmentation and detection. Needs the extra `train`."""

from ..training import (
    NonFiniteLossError,
    OptimizerConfig,
    ScheduleConfig,
    Task,
    build_optimizer,
    build_schedule,
    load_weights,
    read_info,
)
from ..weights import load_trained
from .classification.task import Classification, MixConfig
from .detection.models import DetectorConfig
from .detection.task import Detection
from .segmentation.inference import Inference
from .segmentation.task import Segmentation
from .token_labelling.task import TokenLabelling

__all__ = [
    "Classification",
    "Detection",
    "DetectorConfig",
    "Inference",
    "MixConfig",
    "NonFiniteLossError",
    "OptimizerConfig",
    "ScheduleConfig",
    "Segmentation",
    "Task",
    "TokenLabelling",
    "build_optimizer",
    "build_schedule",
    "load_trained",
    "load_weights",
    "read_info",
]
