"""Training code shared by all tasks: base task, optimizer, EMA weights, checkpoints, resume and configuration."""

from ..errors import MissingExtraError

try:
    import lightning.pytorch  # noqa: F401
    import torchmetrics  # noqa: F401
except ImportError as error:
    raise MissingExtraError(f"Training needs the extra `train` ({error}): pip install 'glmix[train]'.") from error

from .checkpoint_info import read_info
from .optim import OptimizerConfig, ScheduleConfig, build_optimizer, build_schedule
from .task import NonFiniteLossError, Task
from .weights import load_weights

__all__ = [
    "NonFiniteLossError",
    "OptimizerConfig",
    "ScheduleConfig",
    "Task",
    "build_optimizer",
    "build_schedule",
    "load_weights",
    "read_info",
]
