"""One LightningModule a task, on one shared base. Needs the extra `train`."""

from ..errors import MissingExtraError

try:
    import lightning.pytorch  # noqa: F401
    import torchmetrics  # noqa: F401
except ImportError as error:
    raise MissingExtraError(f"Training needs the extra `train` ({error}): pip install 'glmix[train]'.") from error

from .base import NonFiniteLossError, Task
from .classification import Classification, MixConfig
from .detection.models import DetectorConfig
from .detection.task import Detection
from .optim import OptimizerConfig, ScheduleConfig, build_optimizer, build_schedule
from .segmentation.inference import Inference
from .segmentation.task import Segmentation
from .token_label import TokenLabelling
from .trained import load_trained, read_info
from .weights import load_weights

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
